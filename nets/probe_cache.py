"""What probes found out, kept in a file of the data folder: a probe takes from seconds to minutes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from specs.devices import Finding

FILE_NAME = "devices.json"
MAX_KEPT = 200
# A device that failed may have been out of memory, or just woken from sleep.
KEEP_FAILURES = timedelta(days=1)
FINDINGS = TypeAdapter(list[Finding])


class ProbeCache:
    """Findings by name and versions: another driver, PyTorch or device is probed anew. A damaged file is no file."""

    def __init__(self, folder: Path, file_name: str = FILE_NAME) -> None:
        self._path = folder / file_name

    def find(self, name: str, versions: Mapping[str, str]) -> Finding | None:
        """What was found out under this name with these versions; a failure counts for a day."""
        for finding in self._read():
            if (finding.name, finding.versions) == (name, versions) and not _is_stale(finding):
                return finding
        return None

    def keep(self, finding: Finding) -> None:
        """Keeps a finding in place of an earlier one; what cannot be written is found out again another time."""
        others = [other for other in self._read() if not _same(other, finding)]
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}.tmp")
        with contextlib.suppress(OSError):
            temporary.write_bytes(FINDINGS.dump_json([*others, finding][-MAX_KEPT:], indent=1))
            temporary.replace(self._path)

    def _read(self) -> list[Finding]:
        try:
            return FINDINGS.validate_json(self._path.read_bytes())
        except (OSError, ValidationError):
            return []


def _same(one: Finding, other: Finding) -> bool:
    return (one.name, one.versions) == (other.name, other.versions)


def _is_stale(finding: Finding) -> bool:
    age = datetime.now(UTC) - finding.probed_at if finding.probed_at is not None else KEEP_FAILURES
    return not finding.usable and age >= KEEP_FAILURES
