"""What OpenVINO sees on this machine."""

from __future__ import annotations

from importlib import import_module

from inference.telemetry import forbid_telemetry


def available() -> list[dict[str, str]]:
    """Devices as `{"name": "CPU", "full_name": ...}`; an empty list where OpenVINO is missing or broken."""
    forbid_telemetry()
    try:
        core = import_module("openvino").Core()
        names = list(core.available_devices)
    except Exception:
        return []
    return [{"name": name, "full_name": _full_name(core, name)} for name in names]


def _full_name(core: object, name: str) -> str:
    try:
        return str(core.get_property(name, "FULL_DEVICE_NAME")).strip()  # type: ignore[attr-defined]
    except Exception:
        return name
