"""A model's files and the transaction that enters it, where the answer of the database does not arrive."""

from __future__ import annotations

from typing import Any

import pytest

from specs.settings import Settings
from store import queue, workers
from store.artifacts import Artifacts
from store.database import Database
from store.publishing import publishing


@pytest.mark.parametrize("committed", [True, False])
def test_whatever_ends_the_transaction_files_go_only_if_it_failed(
    settings: Settings, database: Database, committed: bool
) -> None:
    artifacts = Artifacts(settings.home)
    target = artifacts.model("mdl_1")
    with database.write() as session:
        queue.enqueue(session, kind="train", name="x", spec="{}")
        claim = queue.claim(session, workers.register(session, ["cpu"]))
    assert claim is not None
    with artifacts.new_directory(target) as directory:
        (directory / "weights").write_bytes(b"x")
    with pytest.raises(KeyboardInterrupt), publishing(database, artifacts, target, claim) as session:
        queue.succeed(session, claim, {})
        interrupt(database, committed=committed)
    assert target.exists() == committed
    with database.read() as session:
        assert (queue.find_job(session, claim.job_id).status == "succeeded") == committed


def interrupt(database: Database, *, committed: bool) -> None:
    """Ctrl-C comes as the next commit has been made, or before it."""
    dialect = database.writer.dialect
    commit = dialect.do_commit

    def commit_and_stop(connection: Any) -> None:
        vars(dialect).pop("do_commit")
        if committed:
            commit(connection)
        raise KeyboardInterrupt

    vars(dialect)["do_commit"] = commit_and_stop
