"""How much memory a job may take, whether the system killed one for want of it, and what would fit.

Needs no PyTorch: the worker tells it of a job whose process is gone.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

if sys.platform != "win32":
    import resource

ROOT = Path("/")
GIGABYTE = 1e9
# For each version of control groups: how a line of /proc/self/cgroup names the one of this process, where their folders
# begin, and the names of its limit, of what it holds, and of the share of that which the system takes back at once.
VERSION_2 = (r"^0::/(.*)$", "", "memory.max", "memory.current", "inactive_file")
VERSION_1 = (
    r"^\d+:(?:.*,)?memory(?:,.*)?:/(.*)$",
    "memory",
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    "total_inactive_file",
)
# Of what is free, for a batch that is said to fit: memory comes in pieces, some of which are left over, and a reckoning
# that was met to the last megabyte did not do under a limit.
SHARE = 0.8
RECENT_SECONDS = 60.0


@dataclass(frozen=True)
class Need:
    """What a training will hold, in bytes: `held` and `fixed` whatever the batch, `per_image` for each image of one.

    Its validations take `validation` beside the former. `least` is the smallest batch that the network can be
    trained with, `field` the name that the job's spec has for `batch_size`.
    """

    held: int
    fixed: int
    per_image: int
    validation: int
    batch_size: int
    least: int
    field: str

    def at(self, batch: int) -> int:
        """Of batches of this size."""
        return self.held + self.fixed + max(batch * self.per_image, self.validation)

    def largest(self, available: int) -> int:
        """The largest batch that fits, below the one that did not; less than `least` if none does."""
        room = int(SHARE * available) - self.held - self.fixed
        # An estimate that takes the batch of the job for small enough was wrong; half of it takes half.
        return min(room // self.per_image, self.batch_size // 2) if room >= self.validation else 0


def advice(foreseen: dict[str, Any] | None, available: int) -> str:
    """What to do about a job that had too little memory, of which this much is there; `foreseen` are a Need's values.

    Without them, or where the want came in another phase than the training, no number is named.
    """
    if foreseen is None:
        return "There is not enough memory for this job. Try a smaller batch_size or image_size."
    need = Need(**foreseen)
    free = f"{available / GIGABYTE:.1f} GB are free"
    fits = need.largest(available)
    if fits < need.least:
        return (
            f"There is not enough memory for this job: even {_take(need, need.least)}, and {free}. Take a smaller "
            "image_size, or an architecture of smaller width."
        )
    if need.at(need.batch_size) <= SHARE * available:
        return (
            f"There was not enough memory for this job, though {_take(need, need.batch_size)}, and {free} now: "
            f"something else may have taken it. Try the job again, or take {need.field} {fits}, half the images."
        )
    return (
        f"There is not enough memory for this job: {_take(need, need.batch_size)}, and {free}. {need.field} {fits} "
        f"would fit (about {need.at(fits) / GIGABYTE:.1f} GB); with gradient_accumulation a step has as many images."
    )


def _take(need: Need, batch: int) -> str:
    return f"{need.field} {batch} takes about {need.at(batch) / GIGABYTE:.1f} GB"


def free_memory(root: Path = ROOT) -> int:
    """Bytes that a process may still take, within the limits of the control groups that this one is in."""
    rooms = [psutil.virtual_memory().available]
    for line, top, limit, held, idle in (VERSION_2, VERSION_1):
        for group in _groups(root, line, top):
            with suppress(OSError, ValueError):
                unused = re.search(rf"^{idle} (\d+)$", (group / "memory.stat").read_text(), re.MULTILINE)
                used = int((group / held).read_text()) - (int(unused[1]) if unused else 0)
                rooms.append(int((group / limit).read_text()) - used)
    return max(0, min(rooms))


def memory_available() -> int:
    """What a training in this process may hold: what is free, and what this process holds already."""
    info = psutil.Process().memory_info()
    rooms = [free_memory()]
    if sys.platform == "linux":
        for limit, used in ((resource.RLIMIT_AS, info.vms), (resource.RLIMIT_DATA, info.data)):
            soft, _ = resource.getrlimit(limit)
            rooms += [] if soft == resource.RLIM_INFINITY else [max(0, soft - used)]
    return min(rooms) + info.rss


def oom_kills(root: Path = ROOT) -> int:
    """How many processes the system has killed so far for want of memory: of our control group, or of all."""
    for path in (*(group / "memory.events" for group in _groups(root, *VERSION_2[:2])), root / "proc" / "vmstat"):
        with suppress(OSError):
            found = re.search(r"^oom_kill (\d+)$", path.read_text(), re.MULTILINE)
            if found:
                return int(found[1])
    return 0


class RecentKills:
    """Whether the system has killed a process for want of memory lately: not hours ago, when it was another one."""

    def __init__(self, *, root: Path = ROOT, clock: Callable[[], float] = time.monotonic) -> None:
        self._root, self._clock = root, clock
        self._looked_at = clock()
        self._before = self._last = oom_kills(root)

    def look(self) -> None:
        """Called now and then. What is counted just now counts as recent for a minute at least.

        One that was killed takes a while to end, in which it gives back what it holds.
        """
        if self._clock() - self._looked_at >= RECENT_SECONDS:
            self._looked_at = self._clock()
            self._before, self._last = self._last, oom_kills(self._root)

    def any(self) -> bool:
        """Whether there was one."""
        return oom_kills(self._root) > self._before


def _groups(root: Path, line: str, folder: str) -> Iterator[Path]:
    """The directories of the control group of this process and of those around it, from within.

    A container may name its group as the machine does and see it as the outermost one: some of them are not there.
    """
    with suppress(OSError):
        found = re.search(line, (root / "proc" / "self" / "cgroup").read_text(), re.MULTILINE)
        if found:
            top = root / "sys" / "fs" / "cgroup" / folder
            own = top / found[1]
            yield own
            yield from (group for group in own.parents if group.is_relative_to(top))
