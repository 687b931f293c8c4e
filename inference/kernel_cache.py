"""Networks as a runtime compiled them, kept on disk, so that the next start need not compile them again.

A file is a SHA-256 and what it is of. A runtime believes what it is given, and would crash over a damaged network: so
none is handed out that is not, to the bit, what was put in. It holds the weights of a model and nothing else that is
not public. Everything that decides whether it fits here is in its key.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

DIGEST_BYTES = 32
LAYOUT = 1  # of the keys; another number forgets all that was kept


def key_of(facts: Mapping[str, str | int]) -> str:
    """The name under which a network with these facts is kept."""
    return hashlib.sha256(json.dumps([LAYOUT, sorted(facts.items())]).encode()).hexdigest()


class KernelCache:
    """Compiled networks in one folder, up to a number of bytes; those that were not used for longest go first.

    Whatever cannot be read or written is as if it had never been kept. A capacity of 0 keeps nothing. Several processes
    may share a folder.
    """

    def __init__(self, folder: Path, *, capacity_bytes: int) -> None:
        self.folder = folder
        self.capacity_bytes = capacity_bytes

    def get(self, key: str) -> bytes | None:
        """What was put in under this key; a damaged file is removed and not handed out."""
        path = self._path(key)
        try:
            with path.open("rb") as file:
                digest, blob = file.read(DIGEST_BYTES), file.read()
            os.utime(path)
        except OSError:
            return None
        if hashlib.sha256(blob).digest() != digest:
            self.drop(key)
            return None
        return blob

    def put(self, key: str, blob: bytes) -> None:
        """Keeps a network, and drops older ones that there is no room for beside it."""
        if DIGEST_BYTES + len(blob) > self.capacity_bytes:
            return
        temporary = self.folder / f".{key}.{secrets.token_hex(8)}.tmp"
        with suppress(OSError):
            try:
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                    file.write(hashlib.sha256(blob).digest())
                    file.write(blob)
                temporary.replace(self._path(key))
            finally:
                temporary.unlink(missing_ok=True)
        self._trim()

    def drop(self, key: str) -> None:
        """Forgets what is kept under this key."""
        with suppress(OSError):
            self._path(key).unlink()

    def _trim(self) -> None:
        found: list[tuple[float, int, Path]] = []
        for path in self.folder.glob("*.blob"):
            with suppress(OSError):  # another process may have dropped it
                state = path.stat()
                found.append((state.st_mtime, state.st_size, path))
        left = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if left <= self.capacity_bytes:
                return
            with suppress(OSError):
                path.unlink()
            left -= size

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.blob"
