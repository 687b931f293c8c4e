"""Commands that run the service on this machine."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from pruneyard.figures import console
from pruneyard.installation import (
    Installation,
    Supervisor,
    free_port,
    migrate,
    require_free_port,
    start_api,
    start_worker,
    wait_until_ready,
)
from pruneyard.processes import Children, module_command

Home = Annotated[Path, typer.Option("--home", envvar="PRUNEYARD_HOME", help="Data folder.")]
Host = Annotated[str, typer.Option("--host", envvar="PRUNEYARD_HOST", help="Address the API listens on.")]
Port = Annotated[
    int, typer.Option("--port", envvar="PRUNEYARD_PORT", min=0, max=65535, help="Port of the API; 0 takes a free one.")
]
DatabaseUrl = Annotated[
    str | None,
    typer.Option("--database-url", envvar="PRUNEYARD_DATABASE_URL", help="By default SQLite in the data folder."),
]

HOME, HOST, PORT = Path("var"), "127.0.0.1", 8000


def up(*, home: Home = HOME, host: Host = HOST, port: Port = PORT, database_url: DatabaseUrl = None) -> None:
    """Run the API and one worker until Ctrl-C."""
    installation = Installation(home=home, host=host, port=port or free_port(host), database_url=database_url)
    with Children() as children:
        require_free_port(installation)
        migrate(children, installation)
        api = start_api(children, installation, to_file=False)
        start = partial(start_worker, children, installation, to_file=False)
        worker = start()
        wait_until_ready(installation.url, [api, worker])
        _announce(console(), installation)
        Supervisor(children, api=api, start=start).keep(worker)


def serve(*, home: Home = HOME, host: Host = HOST, port: Port = PORT, database_url: DatabaseUrl = None) -> None:
    """Run the API alone."""
    _run("service", Installation(home=home, host=host, port=port, database_url=database_url))


def work(*, home: Home = HOME, host: Host = HOST, port: Port = PORT, database_url: DatabaseUrl = None) -> None:
    """Run one worker alone."""
    _run("workers", Installation(home=home, host=host, port=port, database_url=database_url))


def migrate_database(
    *, home: Home = HOME, host: Host = HOST, port: Port = PORT, database_url: DatabaseUrl = None
) -> None:
    """Bring the database to the newest version."""
    _run("store.migrate", Installation(home=home, host=host, port=port, database_url=database_url))


def back_up(
    folder: Annotated[Path, typer.Argument(help="A folder that is not there yet.")],
    *,
    home: Home = HOME,
    host: Host = HOST,
    port: Port = PORT,
    database_url: DatabaseUrl = None,
) -> None:
    """Copy database, models, data sets and checkpoints, while the service runs or not."""
    installation = Installation(home=home, host=host, port=port, database_url=database_url)
    _run("store.backup", installation, "make", str(folder.absolute()))


def restore(
    folder: Annotated[Path, typer.Argument(help="What `backup` has made.")],
    *,
    home: Home = HOME,
    host: Host = HOST,
    port: Port = PORT,
    database_url: DatabaseUrl = None,
) -> None:
    """Put a backup back into a data folder that has no installation."""
    installation = Installation(home=home, host=host, port=port, database_url=database_url)
    _run("store.backup", installation, "restore", str(folder.absolute()))


def _run(module: str, installation: Installation, *arguments: str) -> None:
    with Children() as children:
        code = children.run(module, [*module_command(module), *arguments], env=installation.settings)
    if code:
        raise typer.Exit(code if code > 0 else 1)


def _announce(out: Console, installation: Installation) -> None:
    out.print(Text(f"Pruneyard is ready: {installation.url}", style="bold green"))
    out.print(Text(f"  docs page    {installation.url}/docs"))
    out.print(Text(f"  data folder  {installation.home.absolute()}"))
    out.print(Text("  Ctrl-C stops it."))
