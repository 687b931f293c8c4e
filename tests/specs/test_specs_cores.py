from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from specs.cores import physical_cores

ON_ONE_CORE = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from specs.settings import Settings
from workers.child import job_environment
print(job_environment(Settings())["OMP_NUM_THREADS"], job_environment(Settings(training_threads=3))["OMP_NUM_THREADS"])
"""


@pytest.mark.parametrize(
    ("says", "most"), [("50000 100000", 1), ("150000 100000", 1), ("100000 100000", 1), ("12800000 100000", 128)]
)
def test_a_share_of_time_bounds_the_cores(tmp_path: Path, says: str, most: int) -> None:
    (tmp_path / "cpu.max").write_text(says)
    assert 1 <= physical_cores(tmp_path / "cpu.max") <= most


@pytest.mark.parametrize("says", ["max 100000\n", "", "word", "1 0", "1 2 3"])
def test_what_bounds_nothing_changes_nothing(tmp_path: Path, says: str) -> None:
    (tmp_path / "cpu.max").write_text(says)
    assert physical_cores(tmp_path / "cpu.max") == physical_cores(tmp_path / "none")


@pytest.mark.skipif(sys.platform != "linux", reason="processes are held to cores by Linux' call")
def test_a_worker_that_is_held_to_one_core_trains_on_one_thread() -> None:
    ended = subprocess.run([sys.executable, "-c", ON_ONE_CORE], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["1", "3"]
