"""Commands for data sets: add one, look at it, delete it."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from pruneyard.answers import Dataset
from pruneyard.client import Client
from pruneyard.errors import ApiError, DatasetFailed, JobFailed, PruneyardError
from pruneyard.figures import console, figure, size, table
from pruneyard.interrupts import Stopped
from pruneyard.packing import Archive, FileChanged, pack
from pruneyard.progress import UploadDisplay, follow
from pruneyard.summary import summary

Ref = Annotated[str, typer.Argument(metavar="REF", help="Id or name of a data set.")]
WIDE = 110
# Answers after which sending more leads nowhere.
HOPELESS = frozenset({404, 413, 422})


def dataset_commands() -> typer.Typer:
    """`datasets` and what stands below it."""
    app = typer.Typer(help="List data sets, add one, show one, delete one.", invoke_without_command=True)
    app.callback()(list_datasets)
    app.command("show")(show_dataset)
    app.command("add")(add_dataset)
    app.command("preview")(save_preview)
    app.command("delete")(delete_dataset)
    return app


def list_datasets(
    context: typer.Context, limit: Annotated[int, typer.Option("--limit", min=1, help="How many at most.")] = 50
) -> None:
    """List data sets, the newest first."""
    if context.invoked_subcommand is not None:
        return
    out = console()
    with Client() as client:
        found = list(islice(client.datasets(limit=min(limit, 100)), limit))
    columns = ["id", "name", "version", "status", "classes", "images", "stored", "created"]
    if out.width < WIDE:
        columns = ["id", "name", "status", "classes", "images"]
    rows = [[_row(dataset)[column] for column in columns] for dataset in found]
    out.print(table(columns, rows, numbers=("version", "classes", "images", "stored"), whole=("id", "status")))


def show_dataset(
    ref: Ref, as_json: Annotated[bool, typer.Option("--json", help="Print all that is known, as JSON.")] = False
) -> None:
    """Show what is in a data set: classes, splits, sizes, duplicates, rejected files."""
    with Client() as client:
        dataset = client.dataset(ref)
    if as_json:
        console().print_json(data=dataset)
    else:
        console().print(summary(dataset))


def add_dataset(
    name: Annotated[str, typer.Argument(metavar="NAME", help="One that is there already gets a new version.")],
    path: Annotated[
        Path | None, typer.Argument(metavar="PATH", help="A folder, or a zip, tar, tar.gz or tar.zst file.")
    ] = None,
    *,
    server_folder: Annotated[
        str | None, typer.Option("--server-folder", metavar="PATH", help="A folder on the service's own machine.")
    ] = None,
    torchvision: Annotated[
        str | None, typer.Option("--torchvision", metavar="NAME", help="A set that torchvision knows, such as mnist.")
    ] = None,
    max_rejected: Annotated[
        float | None,
        typer.Option("--max-rejected", min=0, max=0.99, help="Share of files that may be unusable; 0.01 if not said."),
    ] = None,
    resume: Annotated[
        str | None, typer.Option("--resume", metavar="ID", help="Go on with an upload that broke off.")
    ] = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Return once all is sent, before it is read.")] = False,
) -> None:
    """Make a data set of images in folders named by their classes, and wait until the service has read it."""
    if sum(source is not None for source in (path, server_folder, torchvision)) != 1:
        raise typer.BadParameter("give one of PATH, --server-folder and --torchvision.", param_hint="PATH")
    if resume is not None and (path is None or max_rejected is not None):
        raise typer.BadParameter("goes with a PATH and without --max-rejected.", param_hint="--resume")
    out = console()
    with Client() as client:
        if path is not None:
            dataset = _send(client, name, path, max_rejected=max_rejected, resume=resume, out=out)
        else:
            source = _source(server_folder, torchvision)
            dataset = client.create_dataset(name, source=source, max_rejected=max_rejected)
            out.print(Text(f"{dataset['id']} accepted"))
        if no_wait:
            out.print(Text(f"`pruneyard datasets show {dataset['id']}` tells when it is read."))
        else:
            out.print(summary(_read(client, dataset, out)))


def save_preview(
    ref: Ref,
    output: Annotated[
        str | None, typer.Option("-o", "--output", metavar="FILE", help="'-' writes to standard output.")
    ] = None,
) -> None:
    """Save a picture with some images of each class."""
    with Client() as client:
        picture = client.preview(ref)
    if output == "-":
        sys.stdout.buffer.write(picture)
        return
    path = Path(output) if output else Path(re.sub(r"\W+", "-", ref).strip("-") + "-preview.png")
    path.write_bytes(picture)
    console().print(Text(f"{path} ({size(len(picture))})"))


def delete_dataset(
    ref: Ref, force: Annotated[bool, typer.Option("--force", help="Also if models were trained on it.")] = False
) -> None:
    """Delete a data set."""
    with Client() as client:
        client.delete_dataset(ref, force)
    console().print(Text(f"{ref} deleted"))


def _source(server_folder: str | None, torchvision: str | None) -> dict[str, Any]:
    if server_folder is not None:
        return {"kind": "folder", "path": server_folder}
    return {"kind": "torchvision", "name": torchvision}


def _send(
    client: Client, name: str, path: Path, *, max_rejected: float | None, resume: str | None, out: Console
) -> Dataset:
    archive = pack(path)
    out.print(Text(_described(archive)))
    if resume is None:
        dataset = client.create_dataset(name, max_rejected=max_rejected)
        out.print(Text(f"{dataset['id']} accepted"))
    else:
        dataset = client.dataset(resume)
        if dataset.get("name") != name or dataset["id"] != resume:
            raise PruneyardError(f"{resume} is no upload of {name}: it names {dataset['id']}, {dataset.get('name')}.")
    with _resumable(name, path, dataset["id"], out), UploadDisplay(out, archive.size) as display:
        return client.upload(dataset["id"], archive, display.update)


@contextmanager
def _resumable(name: str, path: Path, dataset_id: str, out: Console) -> Iterator[None]:
    """Says how an upload that is broken off here goes on, where it can."""
    try:
        yield
    except (DatasetFailed, FileChanged):
        raise
    except (KeyboardInterrupt, Stopped, PruneyardError) as error:
        if not (isinstance(error, ApiError) and error.status in HOPELESS):
            command = shlex.join(["pruneyard", "datasets", "add", name, str(path), "--resume", dataset_id])
            out.print(Text(f"What was sent is kept. To go on from there:\n  {command}"), soft_wrap=True)
        raise


def _read(client: Client, dataset: Dataset, out: Console) -> Dataset:
    """The data set once it is read, which is shown."""
    try:
        if dataset["status"] == "processing" and (job := dataset.get("job")):
            with suppress(JobFailed):  # the data set itself says more
                follow(client, job, console=out)
        return client.wait_dataset(dataset["id"])
    except (KeyboardInterrupt, Stopped):
        out.print(Text(f"It is read nevertheless; `pruneyard datasets show {dataset['id']}` tells how far it is."))
        raise


def _described(archive: Archive) -> str:
    files = f"{archive.files:,} files, " if archive.files is not None else ""
    left_out = ", ".join(f"{count:,} {reason}" for reason, count in archive.left_out.items())
    return f"{archive.path}: {files}{size(archive.size)}" + (f" (left out: {left_out})" if left_out else "")


def _row(dataset: Dataset) -> dict[str, str]:
    return {
        "id": dataset["id"],
        "name": dataset.get("name") or "",
        "version": figure(dataset.get("version")),
        "status": dataset["status"],
        "classes": figure(dataset.get("class_count"), ","),
        "images": figure(dataset.get("images"), ","),
        "stored": size(dataset.get("bytes")),
        "created": (dataset.get("created_at") or "")[:10],
    }
