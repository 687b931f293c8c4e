"""The compose file and the image: what can be checked without a container engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from pruneyard.commands.root import make_app
from specs.settings import Settings

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """The compose file as data."""
    found: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    return found


def test_the_services_start_in_order(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert set(services) == {"migrate", "api", "worker"}
    for name in ("api", "worker"):
        assert services[name]["depends_on"]["migrate"]["condition"] == "service_completed_successfully"
        assert services[name]["healthcheck"]["test"][0] == "CMD"
    assert {volume for service in services.values() for volume in service["volumes"]} == {"data:/data"}


def test_every_command_exists(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        program, verb = service["command"]
        assert program == "pruneyard"
        assert CliRunner().invoke(make_app(), [verb, "--help"]).exit_code == 0


def test_every_variable_is_a_setting(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        for name in service["environment"]:
            assert name.removeprefix("PRUNEYARD_").lower() in Settings.model_fields


def test_all_services_are_told_of_one_database_if_it_is_not_theirs(compose: dict[str, Any]) -> None:
    told = {service["environment"]["PRUNEYARD_DATABASE_URL"] for service in compose["services"].values()}
    assert told == {"${PRUNEYARD_DATABASE_URL:-}"}


def test_the_api_is_open_to_this_machine_only_and_asks_for_a_key(compose: dict[str, Any]) -> None:
    api = compose["services"]["api"]
    assert all(port.startswith("127.0.0.1:") for port in api["ports"])
    assert api["environment"]["PRUNEYARD_API_KEY"].startswith("${PRUNEYARD_API_KEY:?")


def test_the_image_holds_every_room_and_runs_without_rights() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    rooms = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"benchmarks", "tests"}
    for room in rooms:
        assert f"COPY {room} {room}" in text
    assert text.index("USER pruneyard") < text.index("CMD")
