"""The truth about a smaller model: what it lost, what it gained, and whether it is faster at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from formats.manifest import CalibrationCheck, ModelManifest, stored_bytes
from inference.calibration import CHECKED
from inference.comparing import Comparison, compare
from inference.footprint import peak_bytes
from inference.models import GoldenMismatch, LoadedModel, load_model
from inference.runtimes import CannotRun
from nets.anatomy import Layers
from nets.answers import difference, suffered
from nets.precision import has_vnni
from workers.publishing import Report
from workers.run import Run
from workers.scores import Judged

NO_REPORT = "There will be no report, with nothing to compare the model with: {}."
Verdict = Literal["faster", "smaller_only", "not_faster", "too_costly"]
# Beyond this a user would rather have the parent: the whole interval of what was lost lies above it.
MOST_LOST = 0.02
# Less is not felt, and two measurements of one model differ by as much.
LEAST_GAIN = 1.05
SMALLER = 0.95


class Larger(Protocol):
    """What a smaller model is compared with: a model's directory and what it says of itself."""

    @property
    def directory(self) -> Path: ...

    @property
    def manifest(self) -> ModelManifest: ...

    def served(self, *, threads: int) -> LoadedModel:
        """The model in its fastest runtime."""


@dataclass(frozen=True)
class Stages:
    """A network, what a cut left of it, if it was cut at once, and what training made of that."""

    before: Judged
    after_cut: Judged | None
    after: Judged


def report(
    stages: Stages, layers: Layers, parent: Larger, child: Path, runtime: str, *, threads: int
) -> dict[str, Any]:
    """Plain values, ready for JSON. `child` is the directory of the new model, `runtime` its fastest."""
    loaded = load_model(child, runtime=runtime, threads=threads)
    both = (parent.manifest, loaded.manifest)
    latency = compare(parent.served(threads=threads), loaded)
    sizes = _sizes(both)
    lost = difference(stages.before.test, stages.after.test)
    quantized = loaded.manifest.kind == "quantized"
    verdict, reason = judgement(lost.high, latency[0], sizes, why=_why_integers() if quantized else None)
    return {
        "verdict": verdict,
        "reason": reason,
        "accuracy": {part: _accuracy(stages, part) for part in ("validation", "test")},
        "calibration_error": _pair(stages.before.calibration_error(), stages.after.calibration_error()),
        "calibration": _calibration(stages, both),
        "classes": suffered(stages.before.test, stages.after.test, both[1].classes),
        "sizes": {**sizes, "peak_memory_bytes": _memory(parent.directory, child)},
        "latency": [each.as_dict() for each in latency],
        "vnni": has_vnni(),
        "layers": layers,
    }


def report_beside(run: Run, stages: Stages, layers: Layers, larger: Larger) -> Report:
    """How a job's model is reported on; if what it is compared with cannot be run here, an event says so instead."""

    def tell(child: Path, runtime: str) -> dict[str, Any] | None:
        try:
            return report(stages, layers, larger, child, runtime, threads=run.settings.inference_threads)
        except (CannotRun, GoldenMismatch) as error:  # what was trained is worth more
            run.on_notice(NO_REPORT.format(error))
            return None

    return tell


def judgement(
    lost_at_most: float, latency: Comparison, sizes: dict[str, Any], *, why: str | None = None
) -> tuple[Verdict, str]:
    """One word, and why. `lost_at_most` is the upper end of the change in accuracy on the test images.

    `why` is why the model is no faster, if it is not, where that is known.
    """
    if lost_at_most < -MOST_LOST:
        return "too_costly", f"It is right on at least {-100 * lost_at_most:.1f} points less of the test images."
    measured = f"one image takes {latency.child.p50:.3g} ms instead of {latency.parent.p50:.3g}"
    if latency.low >= LEAST_GAIN:
        return "faster", f"Here {measured}: {latency.low:.2f} to {latency.high:.2f} times as fast (95 %)."
    smaller = sizes["bytes"]["after"] < SMALLER * sizes["bytes"]["before"]
    return (
        "smaller_only" if smaller else "not_faster"
    ), f"It is not felt to be faster ({measured}): {why or _why(sizes)}."


def _why(sizes: dict[str, Any]) -> str:
    """Why what was made smaller is not faster."""
    if sizes["macs"]["after"] < sizes["macs"]["before"]:
        return "what a call costs whatever the network does outweighs the work that was saved"
    if sizes["nonzero_parameters"]["after"] < sizes["parameters"]["after"]:
        return "its zeros take less room in the file, but no maintained runtime on x86 skips them in a convolution"
    return "it has as much to do"


def _why_integers() -> str:
    """Why a network of integers is not faster."""
    reason = "its layers have too little to do to repay the changes between integers and floating point"
    if has_vnni():
        return reason
    return f"this processor has no VNNI, which multiplies 8-bit integers four at a time, or {reason}"


def _pair(before: float | None, after: float | None) -> dict[str, Any]:
    return {"before": before, "after": after}


def _accuracy(stages: Stages, part: str) -> dict[str, Any]:
    before, after = (getattr(judged, part) for judged in (stages.before, stages.after))
    cut = None if stages.after_cut is None else getattr(stages.after_cut, part).accuracy
    change = {name: round(value, 5) for name, value in asdict(difference(before, after)).items()}
    return {**_pair(before.accuracy, after.accuracy), "after_cut": cut, "difference": change}


def _calibration(stages: Stages, both: tuple[ModelManifest, ModelManifest]) -> dict[str, Any]:
    """Both as they are served. What a parent of before there was calibration has not is None."""
    calibrations = [manifest.calibration for manifest in both]
    checks = [None if found is None else found.test for found in calibrations]
    return {
        "validation_images": _pair(*(None if found is None else found.images for found in calibrations)),
        "test_images": len(stages.after.test.labels),
        "temperature": _pair(*(manifest.temperature for manifest in both)),
        "ece_uncalibrated": _pair(stages.before.calibration_error(), stages.after.calibration_error()),
        "ece": _pair(*(None if check is None else check.ece for check in checks)),
        "coverage": [_coverage(checks, asked) for asked in CHECKED],
    }


def _coverage(checks: Sequence[CalibrationCheck | None], asked: float) -> dict[str, Any]:
    rows = [() if check is None else check.coverage for check in checks]
    found = [next((row for row in each if row.asked == asked), None) for each in rows]
    names = ("measured", "mean_set_size")
    return {"asked": asked, **{name: _pair(*(getattr(row, name, None) for row in found)) for name in names}}


def _sizes(both: tuple[ModelManifest, ModelManifest]) -> dict[str, Any]:
    names = ("parameters", "nonzero_parameters", "macs")
    sizes = {name: _pair(*(getattr(manifest, name) for manifest in both)) for name in names}
    return {**sizes, "bytes": _pair(*(stored_bytes(manifest) for manifest in both))}


def _memory(parent: Path, child: Path) -> dict[str, Any]:
    return _pair(*(peak_bytes(directory, "openvino") for directory in (parent, child)))
