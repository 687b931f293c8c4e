"""The tree of commands, and how each of them ends."""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text
from typer.core import TyperGroup

from pruneyard.commands import aliases, datasets, jobs, models, services
from pruneyard.demo import DEFAULT_FOLDER, run_demo
from pruneyard.errors import PruneyardError
from pruneyard.figures import console


class Commands(TyperGroup):
    """Turns what goes wrong into one readable block and exit code 1."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise
        except (PruneyardError, OSError) as error:
            raise _failed(str(error)) from None


def make_app() -> typer.Typer:
    """The commands."""
    app = typer.Typer(
        cls=Commands,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        help="Train, prune and serve image classifiers over HTTP, on the machine you already have.",
    )
    app.callback(invoke_without_command=True)(_options)
    app.command("up")(services.up)
    app.command("serve")(services.serve)
    app.command("work")(services.work)
    app.command("migrate")(services.migrate_database)
    app.command("backup")(services.back_up)
    app.command("restore")(services.restore)
    app.command("train")(jobs.train)
    app.command("prune")(jobs.prune)
    app.command("distill")(jobs.distill)
    app.command("quantize")(jobs.quantize)
    app.add_typer(datasets.dataset_commands(), name="datasets")
    app.add_typer(jobs.job_commands(), name="jobs")
    app.add_typer(models.model_commands(), name="models")
    app.add_typer(aliases.alias_commands(), name="aliases")
    app.command("predict")(models.predict)
    app.command("demo")(_demo)
    return app


def _options(
    url: Annotated[
        str | None, typer.Option("--url", help="Where the service is; PRUNEYARD_URL, then http://127.0.0.1:8000.")
    ] = None,
    show_version: Annotated[bool, typer.Option("--version", is_eager=True, help="Say which version this is.")] = False,
) -> None:
    if show_version:
        console().print(Text(f"pruneyard {version('pruneyard')}"))
        raise typer.Exit
    if url is not None:
        os.environ["PRUNEYARD_URL"] = url


def _demo(
    home: Annotated[Path, typer.Option("--home", help="Folder of the demo, made anew.")] = DEFAULT_FOLDER,
) -> None:
    """Train, prune and compare a small network on handwritten digits, in a folder of its own."""
    if not run_demo(home, console()):
        raise typer.Exit(1)


def _failed(text: str) -> typer.Exit:
    console(stderr=True).print(Text(text, style="red"))
    return typer.Exit(1)
