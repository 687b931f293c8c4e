from __future__ import annotations

import pytest
import torch

from nets import devices
from nets.errors import DeviceUnavailable

NEEDS_NO_XPU = pytest.mark.skipif(torch.xpu.is_available(), reason="an xpu is there")


def test_the_cpu_is_always_there() -> None:
    assert "cpu" in devices.available()
    assert devices.resolve("cpu") == torch.device("cpu")


@NEEDS_NO_XPU
def test_without_an_xpu_auto_is_the_cpu_and_asking_for_one_is_an_error() -> None:
    assert devices.resolve("auto") == torch.device("cpu")
    with pytest.raises(DeviceUnavailable, match="There is no device 'xpu'"):
        devices.resolve("xpu")


def test_the_probe_succeeds_on_the_cpu() -> None:
    assert devices.works("cpu")


def test_the_probe_fails_on_a_device_that_is_not_there() -> None:
    assert not devices.works("mps" if not torch.backends.mps.is_available() else "xpu")


def test_a_probe_that_takes_too_long_is_ended() -> None:
    assert not devices.works("cpu", timeout=0.05)
