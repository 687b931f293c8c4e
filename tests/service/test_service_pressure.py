"""Predictions that are slower than they may be are told to those who train."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from service import pressure
from service.app import create_app
from service.observation import SECONDS, Traffic
from service.pressure import WINDOW, Pressure, percentile
from specs.settings import Settings
from store import slowness
from tests.conftest import LOOPBACK, wait_for
from tests.pictures import picture

PNG = {"content-type": "image/png"}
IMAGE = picture(0, 0)
PREDICT = "/v1/models/{reference}/predict"


@pytest.mark.parametrize(("budget", "told"), [(0.001, True), (60_000.0, False), (None, False)])
def test_the_data_folder_says_so_while_they_are_slow(
    trained_settings: Settings, monkeypatch: pytest.MonkeyPatch, budget: float | None, told: bool
) -> None:
    monkeypatch.setattr(pressure, "TICK_SECONDS", 0.02)
    settings = trained_settings.model_copy(update={"predict_budget_ms": budget})
    with TestClient(create_app(settings), base_url=LOOPBACK) as api:
        assert not slowness.is_told(settings.home)
        for _ in range(3 if told else 30):
            api.post("/v1/models/tiny/predict", content=IMAGE, headers=PNG).raise_for_status()
        if told:
            wait_for(lambda: slowness.is_told(settings.home) or _ask(api), seconds=10, pause=0.0)
            wait_for(lambda: not slowness.is_told(settings.home), seconds=10, pause=0.02)
        else:
            assert not slowness.is_told(settings.home)
    assert not (settings.home / slowness.NAME).exists()


def _ask(api: TestClient) -> None:
    for _ in range(3):
        api.post("/v1/models/tiny/predict", content=IMAGE, headers=PNG).raise_for_status()


def test_only_predictions_of_the_last_seconds_count(tmp_path: Path) -> None:
    traffic = Traffic()
    looks = Pressure(traffic, tmp_path, budget=1.0)
    for _ in range(100):
        traffic.add("GET", "/v1/models", 200, 20.0)
    traffic.add("POST", PREDICT, 200, 0.2)
    assert looks.look() == 0.0, "one says nothing of a percentile"
    for _ in range(19):
        traffic.add("POST", PREDICT, 200, 0.2)
    assert 0.1 < looks.look() <= 0.25
    for _ in range(20):
        traffic.add("POST", "/v2/models/{name}/infer", 200, 20.0)
    assert 10.0 < looks.look() <= 30.0
    assert [looks.look() > 0 for _ in range(WINDOW)][-1] is False


def test_a_percentile_is_within_the_bucket_that_it_falls_into() -> None:
    counts = [0] * (len(SECONDS) + 1)
    counts[2], counts[5] = 90, 10
    assert percentile(SECONDS, counts, share=0.9) == pytest.approx(SECONDS[2])
    assert percentile(SECONDS, counts, share=0.95) == pytest.approx((SECONDS[4] + SECONDS[5]) / 2)
    assert percentile(SECONDS, [0] * len(counts), share=0.95) == 0.0
    counts[-1] = 100
    assert percentile(SECONDS, counts, share=0.95) == float("inf")
