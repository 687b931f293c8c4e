"""Commands for models and what they predict."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.text import Text

from pruneyard.answers import FamilyPredictions, Model, Prediction, Predictions
from pruneyard.client import Client
from pruneyard.errors import ApiError, BadFile, PruneyardError
from pruneyard.figures import console, figure, percent, size, table

Ref = Annotated[str, typer.Argument(metavar="REF", help="Id, alias or name of a model.")]
IMAGES_PER_REQUEST = 32
WIDE = 140
TOO_MUCH, OF_IMAGES = 413, frozenset({415, 422})
Answers = Predictions | FamilyPredictions
Ask = Callable[[Any], Answers]


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
    words: Annotated[
        list[str],
        typer.Argument(metavar="REF FILES...", help="A model (id, alias or name; not with --family) and images."),
    ],
    *,
    top: Annotated[int, typer.Option("--top", min=1, help="Likeliest classes to show of each image.")] = 3,
    family: Annotated[
        str | None, typer.Option("--family", help="Id of a family, instead of REF: its best model that fits is asked.")
    ] = None,
    budget_ms: Annotated[
        float | None, typer.Option("--budget-ms", help="Milliseconds that one image may take, of a family's models.")
    ] = None,
    min_accuracy: Annotated[
        float | None, typer.Option("--min-accuracy", help="Validation accuracy (0 to 1) that it must have.")
    ] = None,
) -> None:
    """Classify image files."""
    if family is None and (budget_ms is not None or min_accuracy is not None):
        raise typer.BadParameter("say of which family.", param_hint="--family")
    files = _files(words if family is not None else words[1:])
    with Client() as client:
        if family is None:
            ask: Ask = partial(client.predict, words[0], top_k=top)
        else:
            ask = partial(
                client.predict_family, family, latency_budget_ms=budget_ms, min_accuracy=min_accuracy, top_k=top
            )
        asked = [each for some in _parts(files) for each in _asked(ask, some)]
    refused = [(some[0], answer) for some, answer in asked if isinstance(answer, PruneyardError)]
    if len(files) == 1 and refused:
        raise refused[0][1]
    answers = [(some, answer) for some, answer in asked if not isinstance(answer, PruneyardError)]
    told = [pair for some, answer in answers for pair in zip(some, answer["predictions"], strict=True)]
    rows = {file: _answer(file, prediction) for file, prediction in told}
    out = console()
    out.print(table(["file", "label", "probability", "then"], [rows.get(file) or _answer(file, {}) for file in files]))
    # Each request chooses anew, so that there may be several.
    for line in filter(None, dict.fromkeys(_chosen(answer) for _, answer in answers)):
        out.print(Text(line))
    for file, error in refused:
        console(stderr=True).print(Text(_why(file, error)))
    if refused:
        raise typer.Exit(1)


def _files(words: Sequence[str]) -> list[Path]:
    files = [Path(word) for word in words]
    missing = [str(file) for file in files if not file.is_file()]
    if missing or not files:
        told = f"there is no file {missing[0]!r}." if missing else "say which images."
        raise typer.BadParameter(told, param_hint="FILES")
    return files


def _parts(files: Sequence[Path]) -> Iterator[Sequence[Path]]:
    for start in range(0, len(files), IMAGES_PER_REQUEST):
        yield files[start : start + IMAGES_PER_REQUEST]


def _asked(ask: Ask, files: Sequence[Path]) -> Iterator[tuple[Sequence[Path], Answers | ApiError | BadFile]]:
    """Answers for these files, by halves where they are too much for one request, or one of them is refused."""
    try:
        yield files, ask(files[0] if len(files) == 1 else files)
    except (ApiError, BadFile) as error:
        if isinstance(error, ApiError) and not _is_of_images(error):
            raise
        if len(files) == 1:
            yield files, error
            return
        for half in (files[: len(files) // 2], files[len(files) // 2 :]):
            yield from _asked(ask, half)


def _is_of_images(error: ApiError) -> bool:
    pointers = [each.get("pointer", "#") for each in error.errors]
    named = any(pointer == "#" or pointer.startswith("#/images") for pointer in pointers)
    return error.status == TOO_MUCH or (error.status in OF_IMAGES and named)


def _why(file: Path, error: PruneyardError) -> str:
    if not isinstance(error, ApiError):
        return str(error)  # which names it
    told = [part for each in error.errors for part in (each.get("message"), each.get("hint")) if part]
    return f"{file}: {' '.join(told) or error.detail or error.title}"


def _chosen(answers: Answers) -> str:
    """Which model of a family answered; nothing where one was named."""
    if "chosen" not in answers:
        return ""
    chosen = cast(FamilyPredictions, answers)["chosen"]
    latency = figure(chosen["latency_ms"], ".3g", unit=" ms")
    accuracy = (
        f"{percent(chosen['validation_accuracy'])} right in validation, {percent(chosen['test_accuracy'])} in test"
    )
    return f"by {chosen['name']} ({chosen['model']}): {latency}, {accuracy}. {chosen['reason']}"


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
    tested = metrics.get("test_accuracy")
    return [
        model["id"],
        model.get("name") or "",
        model["kind"],
        str((model.get("architecture") or {}).get("name", "")),
        percent(metrics.get("validation_accuracy") if tested is None else tested),
        size(model.get("bytes")),
        figure(model.get("parameters"), ","),
        figure(model.get("nonzero_parameters"), ","),
        model["status"],
    ]
