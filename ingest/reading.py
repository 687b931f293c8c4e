"""From a stream of files to a pack of images: each is decoded, measured and written behind the one before."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from formats.images import BadImage
from ingest.decoding import Batches, Examination, PixelBudget, examine
from ingest.manifests import MAX_BYTES, is_manifest
from ingest.members import CHUNK, Member, Rejected
from ingest.names import is_junk
from ingest.records import Records

# Phase, how much of it is done, and how much there is, if that is known. It is called often and may raise, to stop.
Report = Callable[[str, int, int | None], None]


@dataclass
class Reading:
    """What came out of a stream: images (their bytes are in the pack), and everything else.

    `unusable` are files that came and are no images; `rejected` those that did not even come.
    """

    records: Records = field(default_factory=Records)
    manifests: dict[str, bytes] = field(default_factory=dict)
    unusable: list[Rejected] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    ignored: int = 0


def read_images(
    members: Iterable[Member | Rejected], pack: Path, *, max_pixels: int, threads: int, report: Report
) -> Reading:
    """Reads the stream to its end and writes the bytes of all images to `pack`, in the order of the stream."""
    reading = Reading()
    work = partial(_examine_all, budget=PixelBudget(), max_pixels=max_pixels)
    batches = Batches(work, size=lambda member: len(member.data), threads=threads)
    seen = 0
    with pack.open("wb") as file, closing(batches.run(_images(members, reading))) as results:
        for result in results:
            for member, examined in result:
                _keep(reading, file, member, examined)
            seen += len(result)
            report("reading", seen, None)
    return reading


def _images(members: Iterable[Member | Rejected], reading: Reading) -> Iterator[Member]:
    for member in members:
        if isinstance(member, Rejected):
            reading.rejected.append(member)
        elif member.label is not None:
            yield member
        elif is_junk(member.path):
            reading.ignored += 1
        elif is_manifest(member.path):
            _keep_manifest(reading, member)
        else:
            yield member


def _keep_manifest(reading: Reading, member: Member) -> None:
    """Keeps a manifest, as far as one could be read: of more than that, only that they are there."""
    held = sum(map(len, reading.manifests.values()))
    reading.manifests[member.path] = member.data if held <= MAX_BYTES else b""


def _examine_all(
    members: list[Member], *, budget: PixelBudget, max_pixels: int
) -> list[tuple[Member, Examination | BadImage]]:
    results: list[tuple[Member, Examination | BadImage]] = []
    for member in members:
        try:
            results.append((member, examine(member.data, budget=budget, max_pixels=max_pixels)))
        except BadImage as error:
            results.append((member, error))
    return results


def _keep(reading: Reading, file: BinaryIO, member: Member, examined: Examination | BadImage) -> None:
    if isinstance(examined, BadImage):
        reading.unusable.append(Rejected(member.path, examined.reason, str(examined)))
        return
    file.write(member.data)
    reading.records.add(member, examined)


def drop_from_pack(pack: Path, lengths: NDArray[np.int64], kept: NDArray[np.bool_]) -> None:
    """Takes the bytes of images that are not kept out of the pack; the rest moves up, in its order."""
    if kept.all():
        return
    starts = np.cumsum(lengths) - lengths
    with pack.open("rb") as source, pack.open("r+b") as target:
        for start, end in zip(starts[kept].tolist(), (starts + lengths)[kept].tolist(), strict=True):
            source.seek(start)
            while piece := source.read(min(CHUNK, end - source.tell())):
                target.write(piece)
        target.truncate()
