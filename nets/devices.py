"""Which device trains: the CPU, or an accelerator that a probe has shown to work. Found out without ever hanging."""

from __future__ import annotations

import sys
from pathlib import Path

import structlog
import torch

from formats.logs import configure_logs
from nets import probes
from nets.errors import DeviceUnavailable
from nets.probe_cache import FINDINGS, ProbeCache
from nets.probes import DeviceMissing, ProbeFailed
from specs.devices import ACCELERATORS, ALWAYS_THERE, CPU, Accelerator, Finding, ruled_out
from specs.settings import Settings

# A device that is hardly faster is not worth its driver, its memory and its heat.
LEAST_RATIO = 1.2
BUILT = {"cuda": torch.backends.cuda.is_built, "mps": torch.backends.mps.is_built, "xpu": torch.xpu._is_compiled}

log = structlog.get_logger()


def resolve(name: str, settings: Settings | None = None) -> torch.device:
    """The device of a spec's name; without settings, by those of the environment.

    `auto` is the fastest that works, the CPU if there is none. DeviceUnavailable says why another one cannot be used.
    """
    if name == CPU:
        return torch.device(CPU)
    settings = settings or Settings()
    if name == "auto":
        return torch.device(_chosen(examine(settings)))
    accelerator = next((each for each in ACCELERATORS if each.name == name), None)
    if accelerator is None:
        raise DeviceUnavailable(f"There is no kind of device named {name[:20]!r}.")
    finding = examine_accelerator(accelerator, settings)
    if not finding.usable:
        raise DeviceUnavailable(f"The device {name!r} cannot be used. {finding.reason} `auto` takes one that works.")
    return torch.device(name)


def examine(settings: Settings) -> list[Finding]:
    """What there is to say of each device, the CPU first; one of them is the one that `auto` takes."""
    others = [examine_accelerator(accelerator, settings) for accelerator in ACCELERATORS]
    return choose([Finding(name=CPU, usable=True, reason=ALWAYS_THERE), *others])


def choose(findings: list[Finding]) -> list[Finding]:
    """The findings with that one marked that `auto` takes: the fastest if it is worth it, else the CPU."""
    fast = [finding for finding in findings if finding.usable and (finding.ratio or 0.0) >= LEAST_RATIO]
    chosen = max(fast, key=lambda finding: finding.ratio or 0.0).name if fast else CPU
    return [finding.model_copy(update={"chosen_by_auto": finding.name == chosen}) for finding in findings]


def examine_accelerator(accelerator: Accelerator, settings: Settings) -> Finding:
    """What there is to say of one accelerator; it is probed only if nothing else rules it out."""
    reason = ruled_out(accelerator, probing=settings.device_probe)
    if reason is None and not BUILT[accelerator.name]():
        reason = f"This build of PyTorch, {torch.__version__}, cannot use it; docs/devices.md says which can."
    if reason is not None:
        return Finding(name=accelerator.name, usable=False, reason=reason, versions={"torch": str(torch.__version__)})
    return probe(accelerator.name, ProbeCache(settings.home))


def probe(
    name: str,
    cache: ProbeCache,
    *,
    script: Path = probes.SCRIPT,
    identify_seconds: float = probes.IDENTIFY_SECONDS,
    train_seconds: float = probes.TRAIN_SECONDS,
) -> Finding:
    """Whether a device trains as the CPU does, and how fast; from the cache if that was found out before."""
    versions: dict[str, str] = {"torch": str(torch.__version__)}
    # A device that could not even be named, a hang perhaps, is left alone for a while.
    known = cache.find(name, versions)
    try:
        if known is None:
            versions = probes.identify(name, script=script, timeout=identify_seconds)
            known = cache.find(name, versions)
        if known is not None:
            return known
        ratio = probes.measure(name, script=script, timeout=train_seconds)
        finding = Finding.now(name, versions, usable=True, reason=_in_words(ratio), ratio=ratio)
    except DeviceMissing as error:
        return Finding.now(name, versions, usable=False, reason=str(error))
    except ProbeFailed as error:
        finding = Finding.now(name, versions, usable=False, reason=str(error))
    cache.keep(finding)
    return finding


def _in_words(ratio: float) -> str:
    if ratio >= LEAST_RATIO:
        return f"It computes what the CPU computes, {ratio:g} times as fast."
    return f"It works, {ratio:g} times as fast as the CPU; `auto` takes a device from {LEAST_RATIO:g} times on."


def _chosen(findings: list[Finding]) -> str:
    for finding in findings:
        # Of a device that is not there, there is nothing to tell.
        if finding.probed_at is not None and not finding.chosen_by_auto:
            log.warning("a device is not used", device=finding.name, reason=finding.reason)
    chosen = next(finding.name for finding in findings if finding.chosen_by_auto)
    log.info("the device is chosen", device=chosen)
    return chosen


def main() -> None:
    """Prints the findings as a JSON list."""
    settings = Settings()
    configure_logs(settings.log_format, settings.log_level)
    sys.stdout.write(FINDINGS.dump_json(examine(settings)).decode() + "\n")


if __name__ == "__main__":
    main()
