"""What workers find out about devices, and what the API and jobs make of it."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from specs.devices import ACCELERATORS, Accelerator
from specs.settings import Settings
from tests.conftest import LOOPBACK, TINY_TRAINING, running_worker, wait_for
from workers.devices import examine_devices

NAMES = ["cpu", *(accelerator.name for accelerator in ACCELERATORS)]
# A device that every Linux seems to have, so that torch is asked.
SHOWN = Accelerator("xpu", "Graphics by Intel", ("dev/null",))
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="files that show devices")


def test_each_device_has_a_reason_and_one_is_chosen(settings: Settings) -> None:
    findings = examine_devices(settings)
    assert [finding.name for finding in findings] == NAMES
    assert all(finding.reason.endswith(".") for finding in findings)
    assert [finding.chosen_by_auto for finding in findings].count(True) == 1
    assert findings[0].usable


@LINUX
def test_torch_is_asked_in_a_process_of_its_own(settings: Settings) -> None:
    findings = examine_devices(settings, [SHOWN])
    assert [finding.name for finding in findings] == NAMES
    assert all("torch" in finding.versions for finding in findings[1:])


@LINUX
def test_a_process_that_fails_leaves_the_cpu(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRUNEYARD_PORT", "none")
    cpu, xpu = examine_devices(settings, [SHOWN])
    assert (cpu.usable, cpu.chosen_by_auto) == (True, True)
    assert not xpu.usable
    assert "could not be examined" in xpu.reason


@LINUX
def test_nothing_is_asked_where_nothing_shall_be_tried_out(settings: Settings) -> None:
    _, xpu = examine_devices(settings.model_copy(update={"device_probe": False}), [SHOWN])
    assert not xpu.usable
    assert "PRUNEYARD_DEVICE_PROBE" in xpu.reason


def test_the_api_tells_what_a_worker_found_out_and_jobs_keep_to_it(settings: Settings) -> None:
    with (
        TestClient(create_app(settings), base_url=LOOPBACK) as api,
        running_worker(settings, PRUNEYARD_DEVICE_PROBE="no"),
    ):
        found = wait_for(lambda: api.get("/v1/devices").json()["devices"])
        assert [device["name"] for device in found] == NAMES
        assert [device["usable"] for device in found] == [True, False, False, False]
        assert [device["name"] for device in found if device["chosen_by_auto"]] == ["cpu"]
        assert api.get("/v1/devices").json()["training"] == ["cpu"]
        job = _ended(api, {**TINY_TRAINING, "epochs": 1, "device": NAMES[1]})
        assert (job["status"], job["reason"]) == ("failed", "device_unavailable")
        assert found[1]["reason"] in job["message"]


def _ended(api: TestClient, body: dict[str, Any]) -> dict[str, Any]:
    job_id = api.post("/v1/jobs", json=body).raise_for_status().json()["id"]

    def look() -> dict[str, Any] | None:
        job: dict[str, Any] = api.get(f"/v1/jobs/{job_id}").json()
        return job if job["status"] in {"succeeded", "failed"} else None

    ended: dict[str, Any] = wait_for(look, seconds=120)
    return ended
