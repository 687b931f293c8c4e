"""Commands for models and what they predict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from pruneyard.answers import Model, Prediction
from pruneyard.client import Client
from pruneyard.figures import console, figure, percent, size, table

Ref = Annotated[str, typer.Argument(metavar="REF", help="Id, alias or name of a model.")]
IMAGES_PER_REQUEST = 32
WIDE = 140


def model_commands() -> typer.Typer:
    """`models` and what stands below it."""
    app = typer.Typer(help="List models, show one, name one, delete one.", invoke_without_command=True)
    app.callback()(list_models)
    app.command("show")(show_model)
    app.command("alias")(alias_model)
    app.command("delete")(delete_model)
    return app


def list_models(
    context: typer.Context, limit: Annotated[int, typer.Option("--limit", min=1, help="How many at most.")] = 50
) -> None:
    """List models, the newest first."""
    if context.invoked_subcommand is not None:
        return
    with Client() as client:
        rows = [_row(model) for model in islice(client.models(limit=min(limit, 100)), limit)]
    columns = ["id", "name", "kind", "architecture", "accuracy", "stored", "parameters", "not zero", "status"]
    out = console()
    kept = [0, 1, 4, 5] if out.width < WIDE else range(len(columns))
    shown = [[row[number] for number in kept] for row in rows]
    out.print(table([columns[number] for number in kept], shown, whole=("id", "status")))


def show_model(ref: Ref) -> None:
    """Print a model as JSON."""
    with Client() as client:
        console().print_json(data=client.model(ref))


def alias_model(alias: Annotated[str, typer.Argument(metavar="NAME")], ref: Ref) -> None:
    """Let a name stand for a model from now on."""
    with Client() as client:
        client.set_alias(alias, ref)
    console().print(Text(f"{alias} -> {ref}"))


def delete_model(ref: Ref) -> None:
    """Delete a model."""
    with Client() as client:
        client.delete_model(ref)
    console().print(Text(f"{ref} deleted"))


def predict(
    ref: Ref,
    files: Annotated[list[Path], typer.Argument(metavar="FILES...", exists=True, dir_okay=False)],
    top: Annotated[int, typer.Option("--top", min=1, help="Likeliest classes to show of each image.")] = 3,
) -> None:
    """Classify image files."""
    with Client() as client:
        rows = [_answer(file, prediction) for file, prediction in _predictions(client, ref, files, top=top)]
    console().print(table(["file", "label", "probability", "then"], rows))


def _predictions(client: Client, ref: str, files: Sequence[Path], *, top: int) -> Iterator[tuple[Path, Prediction]]:
    for start in range(0, len(files), IMAGES_PER_REQUEST):
        some = files[start : start + IMAGES_PER_REQUEST]
        answers = client.predict(ref, some[0] if len(some) == 1 else some, top_k=top)
        yield from zip(some, answers["predictions"], strict=True)


def _answer(file: Path, prediction: Prediction) -> Sequence[str]:
    rest = prediction.get("top", [])[1:]
    return [
        str(file),
        prediction.get("label", "could not be read"),
        percent(prediction.get("probability")),
        ", ".join(f"{guess['label']} {percent(guess['probability'])}" for guess in rest),
    ]


def _row(model: Model) -> Sequence[str]:
    metrics = model.get("metrics") or {}
    return [
        model["id"],
        model.get("name") or "",
        model["kind"],
        str((model.get("architecture") or {}).get("name", "")),
        percent(metrics.get("test_accuracy") or metrics.get("validation_accuracy")),
        size(model.get("bytes")),
        figure(model.get("parameters"), ","),
        figure(model.get("nonzero_parameters"), ","),
        model["status"],
    ]
