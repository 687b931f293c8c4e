"""What can be wrong with an archive or the data set in it: a word for programs, a sentence and the fix for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ingest.members import Rejected


class IngestError(Exception):
    """Nothing can be made of what was given; `reason` is one word for programs."""

    def __init__(self, reason: str, message: str, hint: str) -> None:
        super().__init__(f"{message} {hint}")
        self.reason = reason
        self.message = message
        self.hint = hint


class BadArchive(IngestError):
    """An archive that is damaged, hostile or over a limit: nothing of it is used.

    Reasons: not_an_archive, damaged_archive, encrypted, unsafe_name, not_a_regular_file, too_many_files,
    too_many_bytes, archive_bomb.
    """


class BadDataset(IngestError):
    """Files that could be read but make no data set; `rejected` are all those that could not be used, by path.

    Reasons: no_images, bad_manifest, one_class_only, too_few_images, too_many_rejected.
    """

    def __init__(self, reason: str, message: str, hint: str, rejected: Sequence[Rejected] = ()) -> None:
        super().__init__(reason, message, hint)
        self.rejected = tuple(rejected)
