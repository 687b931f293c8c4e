from __future__ import annotations

import os
import re
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest

from workers.memory import Need, RecentKills, advice, free_memory, oom_kills

GB = 10**9
NEED = Need(
    held=GB,
    fixed=GB // 2,
    per_image=GB // 10,
    validation=GB // 2,
    batch_size=64,
    least=2,
    field="fine_tune.batch_size",
)


@pytest.mark.parametrize(
    ("available", "fits"),
    [
        (4 * GB, 17),  # four fifths of 4 are 1 + 0.5 + 17 * 0.1
        (7 * GB, 32),  # not more than half of what has just failed
        (2_600_000_000, 5),  # where a validation takes as much as five images
    ],
)
def test_the_largest_batch_that_fits_is_named(available: int, fits: int) -> None:
    told = advice(asdict(NEED), available)
    assert f"fine_tune.batch_size 64 takes about 7.9 GB, and {available / GB:.1f} GB are free" in told
    assert re.findall(r"fine_tune\.batch_size (\d+) would fit \(about ([\d.]+) GB\)", told) == [
        (str(fits), f"{NEED.at(fits) / GB:.1f}")
    ]
    assert NEED.at(fits) <= available


@pytest.mark.parametrize(
    "available",
    [
        GB,  # less than is held already
        2_400_000_000,  # room for four images, and none for a validation
    ],
)
def test_where_no_batch_fits_none_is_named(available: int) -> None:
    told = advice(asdict(NEED), available)
    assert "would fit" not in told
    assert "even fine_tune.batch_size 2 takes about 2.0 GB" in told
    assert "image_size" in told
    assert "width" in told


def test_what_should_have_fitted_is_not_called_too_large() -> None:
    told = advice(asdict(NEED), 10 * GB)
    assert "something else may have taken it" in told
    assert "fine_tune.batch_size 32" in told


def test_without_a_reckoning_there_is_no_number() -> None:
    assert not re.search(r"\d", advice(None, 9 * GB))


def control_group(root: Path, **files: str) -> Path:
    """A machine on which this process is in a control group of this content, within one without limits."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text("0::/outer/inner\n")
    (root / "proc/vmstat").write_text("nr_free_pages 7\noom_kill 5\noom_kill_x 9\n")
    group = root / "sys/fs/cgroup/outer/inner"
    group.mkdir(parents=True)
    (group.parent / "memory.max").write_text("max\n")
    (group.parent / "memory.current").write_text("1\n")
    (group.parent / "memory.stat").write_text("inactive_file 0\n")
    for name, content in files.items():
        (group / f"memory.{name}").write_text(content)
    return root


def test_kills_are_those_of_the_own_control_group_where_it_counts_them(tmp_path: Path) -> None:
    counted = control_group(tmp_path / "counted", events="low 0\noom 4\noom_kill 3\noom_group_kill 0\n")
    assert oom_kills(counted) == 3
    assert oom_kills(control_group(tmp_path / "not counted")) == 5
    assert oom_kills(tmp_path) == 0, "a system that does not tell"


def test_kills_of_long_ago_were_of_others(tmp_path: Path) -> None:
    root, moment = control_group(tmp_path), [0.0]
    kills = RecentKills(root=root, clock=lambda: moment[0])

    def look(at: float) -> bool:
        moment[0] = at
        kills.look()
        return kills.any()

    assert not look(3600.0)
    (root / "proc/vmstat").write_text("oom_kill 6\n")
    assert look(3600.1)
    # One that was killed may take its time to end.
    assert [look(at) for at in (3659.0, 3660.0, 3719.0)] == [True] * 3
    assert not look(3720.0)


def test_the_limits_of_a_container_are_limits(tmp_path: Path) -> None:
    free = psutil.virtual_memory().available
    room = control_group(
        tmp_path / "a", max="3000000\n", current="2500000\n", stat="anon 1\ninactive_file 400000\nactive_file 9\n"
    )
    assert free_memory(room) == 900_000
    full = control_group(tmp_path / "b", max="1000\n", current="2000\n", stat="anon 1\n")
    assert free_memory(full) == 0
    assert free_memory(control_group(tmp_path / "c")) > free / 2
    assert free_memory(tmp_path / os.devnull.strip("/")) > free / 2


@pytest.mark.parametrize("named", ["memory", "hugetlb,memory", "memory,hugetlb"])
@pytest.mark.parametrize("seen", ["docker/a1b2", ""])
def test_so_are_those_of_the_first_version_of_control_groups(tmp_path: Path, named: str, seen: str) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(f"9:pids:/docker/a1b2\n4:{named}:/docker/a1b2\n0::/\n")
    group = tmp_path / "sys/fs/cgroup/memory" / seen
    group.mkdir(parents=True)
    (group / "memory.limit_in_bytes").write_text("3000000\n")
    (group / "memory.usage_in_bytes").write_text("2500000\n")
    (group / "memory.stat").write_text("inactive_file 7\ntotal_inactive_file 400000\n")
    assert free_memory(tmp_path) == 900_000
