"""What can go wrong when remembering: one class a sentence."""

from __future__ import annotations


class StoreError(Exception):
    """The base of all errors of this room."""


class NotFound(StoreError):
    """Nothing of this kind is known by what was given."""

    def __init__(self, kind: str, known_by: str = "id") -> None:
        super().__init__(f"There is no {kind} of this {known_by}.")
        self.kind = kind


class Conflict(StoreError):
    """What is asked does not fit the state things are in."""


class LostClaim(StoreError):
    """The job is no longer this worker's at this attempt: whoever hears this stops writing."""


class KeyReused(StoreError):
    """An idempotency key came back with another request."""


class StoreBusy(StoreError):
    """The database is held by somebody else for longer than we wait."""


class InDoubt(StoreBusy):
    """The connection was lost before the database answered: a commit that was asked for may have been made."""


class StorageFull(StoreError):
    """There is no room left on the disk.

    `needed` is the least number of bytes that would do, as far as it is known; None where it is not the disk's room
    that is short.
    """

    def __init__(self, message: str, *, needed: int | None = None) -> None:
        super().__init__(message)
        self.needed = needed


class StorageFault(StoreError):
    """The disk, or what stands for it, failed to read or write."""


class Unstorable(StoreError):
    """A value that the database cannot keep, and so does not know either."""


class UnusableStore(StoreError):
    """The data folder or the database cannot be used at all."""


class OutdatedDatabase(StoreError):
    """The database is not at the version this program needs."""
