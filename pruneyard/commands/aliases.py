"""Commands for aliases: names that stand for a model, and can be moved back."""

from __future__ import annotations

from itertools import islice
from typing import Annotated

import typer
from rich.text import Text

from pruneyard.answers import Alias, AliasMove
from pruneyard.client import Client
from pruneyard.figures import NONE, console, table

AliasName = Annotated[str, typer.Argument(metavar="NAME", help="Such as prod.")]
ACTIONS = {"rollback": "rolled back", "remove": "removed"}


def alias_commands() -> typer.Typer:
    """`aliases` and what stands below it."""
    app = typer.Typer(help="List aliases, set one, move one back, tell its history.", invoke_without_command=True)
    app.callback()(list_aliases)
    app.command("set")(set_alias)
    app.command("rollback")(roll_back_alias)
    app.command("history")(show_history)
    return app


def list_aliases(context: typer.Context) -> None:
    """List aliases by name."""
    if context.invoked_subcommand is not None:
        return
    with Client() as client:
        rows = [(one["alias"], one["name"], one["model"], one["updated_at"]) for one in client.aliases()]
    console().print(table(["alias", "model", "id", "since"], rows, whole=("id",)))


def set_alias(
    alias: AliasName, ref: Annotated[str, typer.Argument(metavar="REF", help="Id, alias or name of a model.")]
) -> None:
    """Let a name stand for a model from now on."""
    with Client() as client:
        _say(client.set_alias(alias, ref))


def roll_back_alias(alias: AliasName) -> None:
    """Let a name stand for the model before; once more goes further back."""
    with Client() as client:
        _say(client.roll_back_alias(alias))


def show_history(
    alias: AliasName, limit: Annotated[int, typer.Option("--limit", min=1, help="How many at most.")] = 50
) -> None:
    """Tell where an alias pointed since when, the newest first."""
    with Client() as client:
        rows = [_row(move) for move in islice(client.alias_history(alias, limit=min(limit, 100)), limit)]
    console().print(table(["since", "model", "id", ""], rows, whole=("since", "id")))


def _say(alias: Alias) -> None:
    console().print(Text(f"{alias['alias']} -> {alias['name']} ({alias['model']})"))


def _row(move: AliasMove) -> tuple[str, ...]:
    note = "model deleted" if move.get("deleted") else ""
    notes = ", ".join(part for part in (ACTIONS.get(move["action"], ""), note) if part)
    return move["since"], move["name"] or NONE, move["model"] or NONE, notes
