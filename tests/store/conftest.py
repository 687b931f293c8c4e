"""What the store promises it promises on both databases: tests that take one run on each."""

from __future__ import annotations

from pathlib import Path

import pytest

from specs.settings import Settings
from tests.conftest import new_home
from tests.postgresql import Server


@pytest.fixture(params=["sqlite", "postgresql"])
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of the database."""
    return str(request.param)


@pytest.fixture
def settings(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> Settings:
    """Settings of an empty data folder, with a database at the newest version."""
    if kind == "sqlite":
        return new_home(tmp_path / "home")
    server: Server = request.getfixturevalue("postgresql")
    return server.new_home(tmp_path / "home")
