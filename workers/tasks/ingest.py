"""Read the content of a data set: an archive that was uploaded, a folder, or a set that torchvision knows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pkgutil import resolve_name
from typing import Any

from formats.datasets import DatasetManifest
from ingest.archives import read_archive
from ingest.datasets import Request, make_dataset
from ingest.errors import BadDataset, IngestError
from ingest.folders import read_folder, resolve_below
from ingest.members import Limits, Member, Rejected
from ingest.process_limits import OutOfTime, limit_this_process
from nets.errors import NetError
from specs.datasets import DatasetSpec, FolderSource, TorchvisionSource, UploadSource
from specs.jobs import IngestSpec
from specs.settings import Settings
from store import datasets, queue
from store.publishing import publishing
from workers.growth import growth_told
from workers.run import Run


@dataclass(frozen=True)
class Files:
    """The files of a source, one after the other, and sentences on them that may grow until the last has come."""

    stream: Iterable[Member | Rejected]
    notes: Sequence[str] = ()


LISTED_REJECTED = 1000
LEAST_FILE_BYTES = 1 << 32


def ingest(run: Run, spec: IngestSpec) -> None:
    """The task of an ingest job. What comes of it: a data set that is ready, or one that failed with its reasons."""
    with run.database.read() as session:
        row = datasets.get(session, spec.dataset)
    wanted = DatasetSpec.model_validate(row.spec)
    run.enter("reading")
    try:
        manifest = _make(run, row.id, wanted)
    except IngestError as error:
        _refuse(run, row.id, error)
    except NetError as error:
        _refuse(run, row.id, IngestError("set_not_available", str(error), "GET /v1/torchvision-datasets lists files."))
    except MemoryError:
        message = "Reading it took more memory than PRUNEYARD_INGEST_MEMORY_BYTES allows."
        _refuse(run, row.id, IngestError("out_of_memory", message, "Raise it, or send smaller images."))
    except OutOfTime:
        message = "Reading it took more processor time than PRUNEYARD_INGEST_SECONDS allows."
        _refuse(run, row.id, IngestError("out_of_time", message, "Raise it, or send fewer images."))
    else:
        _publish(run, manifest)


def _make(run: Run, dataset_id: str, wanted: DatasetSpec) -> DatasetManifest:
    target = run.artifacts.dataset(dataset_id)
    run.artifacts.remove(target)  # left by an attempt that could not write its end
    files = SOURCES[wanted.source.kind](run, dataset_id, wanted.source)
    request = Request(
        id=dataset_id,
        name=wanted.name,
        max_rejected=wanted.max_rejected,
        source=wanted.source.model_dump(mode="json"),
        max_pixels=run.settings.max_pixels,
        notes=files.notes,
    )
    with run.artifacts.new_directory(target) as directory:
        return make_dataset(files.stream, directory, request, run.on_files)


def _uploaded(run: Run, dataset_id: str, _source: UploadSource) -> Files:
    path = run.artifacts.upload(dataset_id)
    if not path.is_file():
        message = "What was uploaded is not here any more: the data folder was changed, or put back from a copy."
        raise IngestError("content_missing", message, "Send it again, as a new version: a data set of the same name.")
    _limit(run.settings)
    return Files(read_archive(path, _limits(run.settings)))


def _folder(run: Run, _dataset_id: str, source: FolderSource) -> Files:
    # Looked at again: the folder may have become a link to elsewhere meanwhile.
    path = resolve_below(source.path, run.settings.data_roots)
    _limit(run.settings)
    return Files(read_folder(path, _limits(run.settings)))


def _torchvision(run: Run, _dataset_id: str, source: TorchvisionSource) -> Files:
    # By its name: torch, which it needs, is not loaded for the other sources, nor would it fit into their limits.
    folder = run.artifacts.downloads()
    with growth_told(folder, run.on_work):
        reading = resolve_name("nets.torchvision_sets:open_set")(source.name, folder)
    images = (Member(image.path, image.data, image.label, image.split) for image in reading.images)
    return Files(images, reading.notes)


SOURCES: dict[str, Callable[[Run, str, Any], Files]] = {
    "upload": _uploaded,
    "folder": _folder,
    "torchvision": _torchvision,
}


def _limits(settings: Settings) -> Limits:
    return Limits(
        max_files=settings.max_dataset_files,
        max_file_bytes=settings.max_image_bytes,
        max_total_bytes=settings.max_upload_bytes,
    )


def _limit(settings: Settings) -> None:
    limit_this_process(
        memory_bytes=settings.ingest_memory_bytes,
        # The database and its log are files of this process too, and what is read is counted by itself.
        file_bytes=max(settings.max_upload_bytes, LEAST_FILE_BYTES),
        cpu_seconds=settings.ingest_seconds,
    )


def _publish(run: Run, manifest: DatasetManifest) -> None:
    facts = manifest.model_dump(mode="json", exclude={"files", "rejected", "id", "name", "source", "created"})
    facts["bytes"] = manifest.bytes
    rejected = [file.model_dump() for file in manifest.rejected]
    with publishing(run.database, run.artifacts, run.artifacts.dataset(manifest.id), run.claim) as session:
        datasets.publish(session, run.claim, manifest.id, facts, rejected)
        queue.succeed(session, run.claim, {"dataset": manifest.id, "images": manifest.images})


def _refuse(run: Run, dataset_id: str, error: IngestError) -> None:
    files = error.rejected if isinstance(error, BadDataset) else ()
    rejected = [asdict(file) for file in files[:LISTED_REJECTED]]
    with run.database.write() as session:
        datasets.note_rejected(session, run.claim, dataset_id, rejected)
        queue.fail(session, run.claim, reason=error.reason, message=str(error))
