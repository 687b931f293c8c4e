"""Hours of the day in which trainings run."""

from __future__ import annotations

from datetime import datetime

import pytest
from pydantic import ValidationError

from specs.settings import Settings

DAY = datetime(2026, 11, 26)


def span(text: str) -> str:
    """The full hours that it holds, in the order of the day."""
    hours = Settings.model_validate({"training_hours": text}).training_hours
    assert hours is not None
    return " ".join(str(hour) for hour in range(24) if hours.holds(DAY.replace(hour=hour)))


def test_hours_go_over_midnight_where_the_end_is_earlier() -> None:
    assert span("22-7") == "0 1 2 3 4 5 6 22 23"
    assert span("9-17") == "9 10 11 12 13 14 15 16"
    assert span("22:30 - 2:15") == "0 1 2 23"
    assert span("20-24") == "20 21 22 23"


@pytest.mark.parametrize("text", ["22", "22-", "7-7", "25-7", "24:30-7", "22-7:60", "22-7-9", "night"])
def test_what_is_no_span_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="such as 22-7"):
        span(text)
