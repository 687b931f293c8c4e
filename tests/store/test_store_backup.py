"""Copies of an installation: whole, verified, and put back elsewhere."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from specs.settings import Settings
from store import queue, workers
from store.backup import DATABASE_NAME, MANIFEST_NAME, Backup, back_up, restore
from store.database import Database
from store.errors import UnusableStore
from store.tables import Checkpoint
from tests.conftest import LOOPBACK


@pytest.fixture
def kind() -> str:
    """Copies are of SQLite."""
    return "sqlite"


def made(settings: Settings, target: Path) -> Backup:
    database = Database.of(settings)
    try:
        return back_up(settings, database, target)
    finally:
        database.close()


@pytest.fixture(scope="module")
def copy(trained_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the trained folder."""
    target = tmp_path_factory.mktemp("copies") / "copy"
    made(Settings(home=trained_home), target)
    return target


@pytest.fixture
def spoilt(copy: Path, tmp_path: Path) -> Path:
    """A copy of the copy, free to be damaged."""
    return Path(shutil.copytree(copy, tmp_path / "spoilt"))


def test_models_answer_as_before_where_they_are_put_back(
    trained_api: TestClient, copy: Path, tmp_path: Path, test_digits: list[tuple[bytes, str]]
) -> None:
    there = Settings(home=tmp_path / "elsewhere")
    assert restore(there, copy).files
    image = {"content": test_digits[0][0], "headers": {"content-type": "image/png"}}
    with TestClient(create_app(there), base_url=LOOPBACK) as api:
        for address in ("/v1/models", "/v1/jobs", "/v1/aliases", "/v1/datasets"):
            assert api.get(address).json() == trained_api.get(address).json()
        for name in ("tiny", "tiny pruned"):
            before, after = (each.post(f"/v1/models/{name}/predict", **image).json() for each in (trained_api, api))
            assert after["predictions"] == before["predictions"]


def test_a_copy_is_private_and_holds_nothing_half_made(copy: Path) -> None:
    assert list(copy.parent.iterdir()) == [copy]
    assert {path.name for path in copy.iterdir()} == {MANIFEST_NAME, DATABASE_NAME, "models"}
    if os.name == "posix":
        assert copy.stat().st_mode & 0o077 == 0


def test_content_that_is_still_to_be_read_is_in_the_copy(api: TestClient, settings: Settings, tmp_path: Path) -> None:
    view = api.post("/v1/datasets", json={"name": "cats"}).json()
    sent = api.put(f"/v1/datasets/{view['id']}/content", content=b"an archive, for all that is known by now")
    assert sent.status_code == 202, sent.text
    made(settings, tmp_path / "copy")
    restore(Settings(home=tmp_path / "elsewhere"), tmp_path / "copy")
    before, after = (Path(home) / "uploads" / view["id"] for home in (settings.home, tmp_path / "elsewhere"))
    assert after.read_bytes() == before.read_bytes()
    before.unlink()
    assert files_of(tmp_path / "copy") == [DATABASE_NAME, f"uploads/{view['id']}"]
    made(settings, tmp_path / "without")
    assert files_of(tmp_path / "without") == [DATABASE_NAME], "no copy at all would be worse"


def test_nothing_is_written_over(copy: Path, settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(UnusableStore, match="already"):
        made(settings, copy)
    with pytest.raises(UnusableStore, match="already"):
        restore(settings, copy)
    (tmp_path / "empty").mkdir()
    for what in (tmp_path / "empty", tmp_path / "none"):
        with pytest.raises(UnusableStore, match="no copy"):
            restore(Settings(home=tmp_path / "new"), what)
    with pytest.raises(UnusableStore, match="Unset"):
        restore(Settings(home=tmp_path / "new", database_url="sqlite:///other.db"), copy)


def files_of(copy: Path) -> list[str]:
    return sorted(json.loads((copy / MANIFEST_NAME).read_bytes())["files"])


@pytest.mark.parametrize("damage", ["other", "cut", "gone", "link"])
def test_a_damaged_copy_is_found_out_before_anything_is_written(spoilt: Path, tmp_path: Path, damage: str) -> None:
    path = spoilt / next(name for name in files_of(spoilt) if "weights" in name)
    data = path.read_bytes()
    path.unlink()
    if damage == "link":
        path.symlink_to("/etc/hostname")
    elif damage != "gone":
        path.write_bytes(data[:-1] + (b"" if damage == "cut" else bytes([data[-1] ^ 1])))
    with pytest.raises(UnusableStore, match="damaged"):
        restore(Settings(home=tmp_path / "new"), spoilt)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "name",
    ["../outside", "/etc/passwd", "models/../../outside", "models/mdl_1/..", "models/mdl_1/../../x", "logs/x.log", ""],
)
def test_a_copy_leads_nowhere_else(spoilt: Path, tmp_path: Path, name: str) -> None:
    manifest: dict[str, Any] = json.loads((spoilt / MANIFEST_NAME).read_bytes())
    (spoilt.parent / "outside").write_text("x")
    manifest["files"][name] = {"bytes": 1, "sha256": "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"}
    (spoilt / MANIFEST_NAME).write_text(json.dumps(manifest))
    with pytest.raises(UnusableStore, match="damaged"):
        restore(Settings(home=tmp_path / "new"), spoilt)
    assert not (tmp_path / "new").exists()


def test_a_model_without_files_is_named_and_a_checkpoint_may_be_gone(
    trained_settings: Settings, tmp_path: Path
) -> None:
    database = Database.of(trained_settings)
    with database.write() as session:
        job = queue.enqueue(session, kind="train", name="long", spec="{}").id
        queue.claim(session, workers.register(session, ["cpu"]))
        session.add(Checkpoint(job_id=job, directory="1-0-1", attempt=1, epoch=1, step=0, best=True))
    assert back_up(trained_settings, database, tmp_path / "first").files
    model = sorted((trained_settings.home / "models").iterdir())[0]
    shutil.rmtree(model)
    with pytest.raises(UnusableStore, match=model.name):
        back_up(trained_settings, database, tmp_path / "second")
    database.close()
    assert not (tmp_path / "second").exists()
    assert not list((trained_settings.home / "scratch").iterdir())


def test_a_database_of_another_kind_is_copied_by_its_own_tools(settings: Settings, tmp_path: Path) -> None:
    pytest.importorskip("psycopg")
    other = settings.model_copy(update={"database_url": "postgresql://nowhere.invalid/yard"})
    with pytest.raises(UnusableStore, match="pg_dump"):
        made(other, tmp_path / "copy")
    with pytest.raises(UnusableStore, match="pg_restore"):
        restore(other, tmp_path / "copy")


def test_it_is_done_from_the_command_line(trained_settings: Settings, tmp_path: Path) -> None:
    def run(what: str, home: Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "store.backup", what, str(tmp_path / "copy")]
        environment = {**os.environ, "PRUNEYARD_HOME": str(home)}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert "database at version" in run("make", trained_settings.home).stdout
    again = run("make", trained_settings.home)
    assert (again.returncode, again.stderr.count("already")) == (2, 1)
    assert run("restore", tmp_path / "new").returncode == 0
    assert run("restore", tmp_path / "new").returncode == 2
    assert (tmp_path / "new" / DATABASE_NAME).read_bytes()[:15] == b"SQLite format 3"
    assert run("steal", tmp_path / "new").returncode == 2
    bare = subprocess.run([sys.executable, "-m", "store.backup"], capture_output=True, text=True, check=False)
    assert (bare.returncode, bare.stderr.startswith("usage:")) == (2, True)
