"""Devices: the probe on the CPU, probes that fail in every way, what is kept of them, and which device is taken."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import torch

from nets import devices, probes
from nets.errors import DeviceUnavailable
from nets.probe_cache import FINDINGS, MAX_KEPT, ProbeCache
from nets.probes import DeviceMissing, ProbeFailed
from specs.devices import ACCELERATORS, Accelerator, Finding, may_be_there
from specs.settings import Settings

BY_NAME = {accelerator.name: accelerator for accelerator in ACCELERATORS}
# A probe of a device that is not there in truth: what it says to `train` is up to the test.
FAKE = """
import json, os, signal, sys, time
from pathlib import Path
if sys.argv[1] == "identify":
    print(json.dumps({{"there": True, "versions": {{"torch": "1", "device": "fake", "driver": {driver!r}}}}}))
    sys.exit(0)
with Path(__file__).with_suffix(".log").open("a") as log:
    log.write("trained\\n")
def say(cpu=3.0, device=1.0, **errors):
    errors = {{"loss": 0.0, "gradients": 1e-5}} | errors
    print(json.dumps({{"errors": errors, "cpu_seconds": cpu, "device_seconds": device}}))
{train}
"""
FAILURES = {
    "an exit code": ("sys.exit(1)", "ended with code 1"),
    "an exit code after a good answer": ("say()\nsys.exit(7)", "ended with code 7"),
    "last words": ("sys.stderr.write('the driver is old\\n')\nsys.exit(3)", "code 3: the driver is old"),
    "an error": ("print(json.dumps({'error': 'RuntimeError: UR error'}))\nsys.exit(1)", "RuntimeError: UR error"),
    "a hang": ("time.sleep(60)", "did not end within 2 seconds"),
    "a hang after a good answer": ("say()\nsys.stdout.flush()\ntime.sleep(60)", "did not end within 2 seconds"),
    "no answer": ("pass", "did not say how its numbers compare"),
    "no JSON": ("print('fine')", "did not say how its numbers compare"),
    "no object": ("print('[1, 2]')", "did not say how its numbers compare"),
    "deep JSON": ("print('[' * 60000)", "did not say how its numbers compare"),
    "no gradients": ('print(\'{"errors": {"loss": 0}}\')', "did not say how its numbers compare"),
    "another loss": ("say(loss=0.01)", "relative error of loss is 0.01"),
    "other gradients": ("say(gradients=2.0)", "relative error of gradients is 2"),
    "gradients that are no numbers": ("say(gradients=float('nan'))", "gradients is no number"),
    "an answer of yes": ("say(gradients=True)", "gradients is no number"),
    "a negative error": ("say(gradients=-1)", "relative error of gradients is -1"),
    "times of nothing": ("say(device=0)", "times that cannot be true"),
    "negative times": ("say(cpu=-1.0)", "times that cannot be true"),
    "times without end": ("say(cpu=float('inf'))", "times that cannot be true"),
    "times in words": ("say(cpu='fast')", "times that cannot be true"),
}
if sys.platform != "win32":
    FAILURES["a crash"] = ("os.kill(os.getpid(), signal.SIGSEGV)", "killed by SIGSEGV")
    FAILURES["an abort"] = ("os.abort()", "killed by SIGABRT")


@pytest.fixture(autouse=True)
def _one_thread_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that wait for each other are slow on a busy machine, in child processes too."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def fake(folder: Path, train: str, *, driver: str = "1.0") -> Path:
    script = folder / "fake.py"
    script.write_text(FAKE.format(train=train, driver=driver), encoding="utf-8")
    return script


def trained(folder: Path) -> int:
    log = folder / "fake.log"
    return len(log.read_text("utf-8").splitlines()) if log.exists() else 0


def test_the_cpu_is_always_there(tmp_path: Path) -> None:
    assert devices.resolve("cpu") == torch.device("cpu")
    first, *others = devices.examine(Settings(home=tmp_path, device_probe=False))
    assert (first.name, first.usable, first.chosen_by_auto) == ("cpu", True, True)
    assert [finding.name for finding in others] == list(BY_NAME)
    assert not any(finding.usable for finding in others)


@pytest.mark.parametrize("name", BY_NAME)
def test_where_nothing_is_tried_out_only_the_cpu_is_used(name: str, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, device_probe=False)
    assert devices.resolve("auto", settings) == torch.device("cpu")
    with pytest.raises(DeviceUnavailable, match=f"'{name}' cannot be used. .+ `auto` takes one that works"):
        devices.resolve(name, settings)


def test_an_accelerator_that_was_found_to_work_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ratios = {"cuda": 0.5, "xpu": 3.0, "mps": 2.0}

    def found(accelerator: Accelerator, _settings: Settings) -> Finding:
        return Finding(name=accelerator.name, usable=True, reason="It works.", ratio=ratios[accelerator.name])

    monkeypatch.setattr(devices, "examine_accelerator", found)
    settings = Settings(home=tmp_path)
    assert devices.resolve("auto", settings) == torch.device("xpu"), "the fastest"
    for name in ratios:
        assert devices.resolve(name, settings) == torch.device(name)
    ratios["xpu"] = ratios["mps"] = 0.9
    assert devices.resolve("auto", settings) == torch.device("cpu"), "none is faster"


def test_a_device_of_no_kind_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DeviceUnavailable, match="'abacus'"):
        devices.resolve("abacus", Settings(home=tmp_path))


@pytest.mark.parametrize("name", BY_NAME)
def test_an_accelerator_that_is_not_there_is_refused_with_the_reason(name: str, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    finding = devices.examine_accelerator(BY_NAME[name], settings)
    if finding.usable:
        pytest.skip("it is there")
    with pytest.raises(DeviceUnavailable) as caught:
        devices.resolve(name, settings)
    assert finding.reason in str(caught.value)


def test_the_cpu_agrees_with_itself() -> None:
    versions = probes.identify("cpu")
    assert versions["torch"] == torch.__version__
    assert all(versions[name] for name in ("device", "cpu", "threads", "probe"))
    assert 0.1 < probes.measure("cpu") < 10


def test_a_device_that_cannot_train_fails() -> None:
    with pytest.raises(ProbeFailed, match="meta"):
        probes.measure("meta")
    with pytest.raises(DeviceMissing):
        probes.identify("nonsense")


@pytest.mark.parametrize("name", FAILURES)
def test_whatever_a_probe_does_the_reason_is_told(name: str, tmp_path: Path) -> None:
    train, reason = FAILURES[name]
    script = fake(tmp_path, train)
    seconds = 2.0 if "hang" in name else 60.0
    finding = devices.probe("xpu", ProbeCache(tmp_path), script=script, train_seconds=seconds)
    assert not finding.usable
    assert finding.ratio is None
    assert reason in finding.reason
    assert finding.reason.endswith(".")
    assert finding.versions["driver"] == "1.0"
    assert devices.choose([finding])[0].chosen_by_auto is False


def test_a_device_that_cannot_even_be_named_is_left_alone_for_a_day(tmp_path: Path) -> None:
    script = tmp_path / "fake.py"
    script.write_text("import time; time.sleep(60)", encoding="utf-8")
    finding = devices.probe("xpu", ProbeCache(tmp_path), script=script, identify_seconds=0.5)
    assert "did not end within 0.5 seconds" in finding.reason
    assert finding.versions == {"torch": torch.__version__}
    assert devices.probe("xpu", ProbeCache(tmp_path), script=fake(tmp_path, "say()")) == finding
    assert finding.probed_at is not None
    early = finding.model_copy(update={"probed_at": finding.probed_at - timedelta(days=2)})
    ProbeCache(tmp_path).keep(early)
    assert devices.probe("xpu", ProbeCache(tmp_path), script=fake(tmp_path, "say()")).usable


def test_a_device_that_is_missing_is_looked_for_each_time(tmp_path: Path) -> None:
    script = tmp_path / "fake.py"
    script.write_text("print('{\"there\": false}')", encoding="utf-8")
    assert "does not find it" in devices.probe("xpu", ProbeCache(tmp_path), script=script).reason
    assert devices.probe("xpu", ProbeCache(tmp_path), script=fake(tmp_path, "say()")).usable


def test_a_probe_that_cannot_be_run_is_no_reason_to_fall(tmp_path: Path) -> None:
    assert not devices.probe("xpu", ProbeCache(tmp_path), script=tmp_path / "nowhere.py").usable


@pytest.mark.parametrize(
    ("times", "ratio", "chosen"), [("3.0, 1.0", 3.0, True), ("1.2, 1.0", 1.2, True), ("1.1, 1.0", 1.1, False)]
)
def test_auto_takes_a_device_that_is_faster(times: str, ratio: float, chosen: bool, tmp_path: Path) -> None:
    finding = devices.probe("xpu", ProbeCache(tmp_path), script=fake(tmp_path, f"say({times})"))
    assert finding.usable, "one that is slower works all the same"
    assert finding.ratio == ratio
    assert f"{ratio:g} times as fast" in finding.reason
    cpu = Finding(name="cpu", usable=True, reason="It is always there.")
    assert [each.chosen_by_auto for each in devices.choose([cpu, finding])] == [not chosen, chosen]


def test_auto_takes_the_fastest_and_never_one_that_fails() -> None:
    ratios = {"cpu": None, "cuda": 2.0, "mps": 5.0, "xpu": 5.0, "broken": 9.0}
    findings = [Finding(name=name, usable=name != "broken", reason=".", ratio=ratio) for name, ratio in ratios.items()]
    assert [each.name for each in devices.choose(findings) if each.chosen_by_auto] == ["mps"]


def test_a_device_is_probed_once_for_each_driver(tmp_path: Path) -> None:
    cache = ProbeCache(tmp_path)
    first = devices.probe("xpu", cache, script=fake(tmp_path, "say()"))
    again = devices.probe("xpu", ProbeCache(tmp_path), script=fake(tmp_path, "say(cpu=99.0)"))
    assert again == first
    assert trained(tmp_path) == 1
    newer = devices.probe("xpu", cache, script=fake(tmp_path, "sys.exit(1)", driver="2.0"))
    assert not newer.usable
    assert devices.probe("xpu", cache, script=fake(tmp_path, "say()", driver="2.0")) == newer
    assert trained(tmp_path) == 2
    assert devices.probe("cuda", cache, script=fake(tmp_path, "say(cpu=4.0)")).ratio == 4.0


def test_a_failure_is_tried_again_after_a_day(tmp_path: Path) -> None:
    cache = ProbeCache(tmp_path)
    failed = devices.probe("xpu", cache, script=fake(tmp_path, "sys.exit(1)"))
    for hours, times in ((23, 1), (25, 2)):
        cache.keep(failed.model_copy(update={"probed_at": datetime.now(UTC) - timedelta(hours=hours)}))
        finding = devices.probe("xpu", cache, script=fake(tmp_path, "say()"))
        assert (finding.usable, trained(tmp_path)) == (times == 2, times)


@pytest.mark.parametrize("content", [b"", b"{", b"[{}]", b"\xff\xfe", b"[" * 50_000])
def test_a_damaged_cache_is_no_cache(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "devices.json").write_bytes(content)
    finding = devices.probe("xpu", ProbeCache(tmp_path), script=fake(tmp_path, "say()"))
    assert finding.usable
    assert FINDINGS.validate_json((tmp_path / "devices.json").read_bytes()) == [finding]


def test_the_cache_does_not_grow_without_end(tmp_path: Path) -> None:
    cache = ProbeCache(tmp_path)
    for number in range(MAX_KEPT + 5):
        cache.keep(Finding(name="xpu", usable=True, reason=".", versions={"driver": str(number)}))
    assert cache.find("xpu", {"driver": "0"}) is None
    assert cache.find("xpu", {"driver": str(MAX_KEPT + 4)}) is not None
    assert [path.name for path in tmp_path.iterdir()] == ["devices.json"]


def test_a_folder_that_is_not_there_stops_no_probe(tmp_path: Path) -> None:
    finding = devices.probe("xpu", ProbeCache(tmp_path / "nowhere"), script=fake(tmp_path, "say()"))
    assert finding.usable


TRACES = {
    "dev/dri/renderD128": {"xpu"},
    "dev/dri/card0": set(),
    "dev/nvidiactl": {"cuda"},
    "dev/nvhost-gpu": {"cuda"},
    "dev/kfd": {"cuda"},
    "dev/dxg": {"cuda", "xpu"},
    "dev/nvme0": set(),
}


@pytest.mark.parametrize("trace", TRACES)
def test_linux_shows_what_may_be_there(trace: str, tmp_path: Path) -> None:
    path = tmp_path / trace
    path.parent.mkdir(parents=True)
    path.touch()
    assert {name for name in BY_NAME if may_be_there(BY_NAME[name], platform="linux", root=tmp_path)} == TRACES[trace]


@pytest.mark.parametrize(("platform", "names"), [("darwin", {"mps"}), ("win32", {"cuda", "xpu"})])
def test_elsewhere_the_system_decides_what_may_be_there(platform: str, names: set[str], tmp_path: Path) -> None:
    assert {name for name in BY_NAME if may_be_there(BY_NAME[name], platform=platform, root=tmp_path)} == names


@pytest.mark.skipif(sys.platform != "linux" or not os.path.lexists("/dev/null"), reason="a file that is always there")
def test_a_device_that_torch_was_not_built_for_is_told_from_one_that_is_not_there(tmp_path: Path) -> None:
    if torch.xpu._is_compiled():
        pytest.skip("it is built for it")
    shown = Accelerator("xpu", "Graphics by Intel", ("dev/null",))
    finding = devices.examine_accelerator(shown, Settings(home=tmp_path))
    assert not finding.usable
    assert "build of PyTorch" in finding.reason
    assert finding.probed_at is None
