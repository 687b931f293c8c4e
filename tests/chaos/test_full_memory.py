"""Memory that is really full: a control group of its own for a worker and its jobs, where this user may make one."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from specs.settings import Settings
from tests.chaos.yard import ENDED, Yard
from tests.conftest import TINY_TRAINING, wait_for

GROUPS = Path("/sys/fs/cgroup")
ROOM = 3 * 2**30
LARGE = {
    **TINY_TRAINING,
    "architecture": {"name": "resnet18", "width": 0.25},
    "image_size": 64,
    "batch_size": 1024,
    "epochs": 1,
}


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group of either version whose processes may hold three gigabytes."""
    first = (GROUPS / "memory").is_dir()
    own = GROUPS / ("memory" if first else "") / f"pruneyard-{os.getpid()}"
    try:
        own.mkdir()
        (own / ("memory.limit_in_bytes" if first else "memory.max")).write_text(str(ROOM))
    except OSError:
        with suppress(OSError):
            own.rmdir()
        pytest.skip("NOT SHOWN HERE: memory that is really full. This user may not limit it.")
    yield own
    wait_for(lambda: not (own / "cgroup.procs").read_text(), seconds=60)
    own.rmdir()


def put(process: psutil.Process, group: Path) -> None:
    """From now on this process and its children take their memory from the group."""
    for each in (process, *process.children(recursive=True)):
        with suppress(OSError, psutil.Error):
            (group / "cgroup.procs").write_text(str(each.pid))


def kills(group: Path) -> int:
    """Processes of the group that the kernel killed."""
    for name in ("memory.oom_control", "memory.events"):
        with suppress(OSError):
            found = re.search(r"^oom_kill (\d+)$", (group / name).read_text(), re.MULTILINE)
            return int(found[1]) if found else 0
    return 0


def test_a_job_that_the_kernel_kills_for_want_of_memory_names_the_batch_that_fits(
    settings: Settings, group: Path
) -> None:
    with Yard(settings, workers=1) as yard:
        worker = yard.workers()[0]
        put(psutil.Process(worker.pid), group)
        job = yard.certainly("/v1/jobs", post=LARGE)["id"]
        wait_for(lambda: yard.certainly(f"/v1/jobs/{job}")["status"] in ENDED, seconds=120)
        ended = yard.certainly(f"/v1/jobs/{job}")
        assert (ended["status"], ended["reason"], ended["attempt"]) == ("failed", "out_of_memory", 1), ended
        assert "The system killed its process" in ended["message"]
        fits = re.search(r"batch_size (\d+) would fit", ended["message"])
        assert fits, ended["message"]
        assert kills(group) == 1, "of the job only"
        assert worker.poll() is None, "the worker goes on"
        smaller = yard.certainly("/v1/jobs", post={**LARGE, "batch_size": int(fits[1])})["id"]
        wait_for(lambda: yard.certainly(f"/v1/jobs/{smaller}/metrics")["items"], seconds=120)
        yard.certainly(f"/v1/jobs/{smaller}/cancel", post={})
        assert kills(group) == 1
