"""The report of a pruned model as a page: no scripts, nothing from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Any

VERDICTS = {
    "faster": ("Faster", "#0b6e4f"),
    "smaller_only": ("Smaller, not faster", "#8a6100"),
    "not_faster": ("Not faster", "#8a6100"),
    "too_costly": ("Too costly", "#a3212f"),
}
SIZES = {
    "parameters": "parameters",
    "nonzero_parameters": "parameters that are not zero",
    "macs": "multiply-accumulates of an image",
    "bytes": "bytes stored",
    "peak_memory_bytes": "bytes of memory, 32 images at once",
}
CONFIDENCE: dict[str, tuple[str, Callable[[Any], str]]] = {
    "temperature": ("temperature", "{:.3g}".format),
    "ece_uncalibrated": ("expected calibration error without a temperature", "{:.4f}".format),
    "ece": ("expected calibration error with the temperature", "{:.4f}".format),
}
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #222; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem; margin-bottom: .2rem } h2 { font-size: 1.1rem; margin-top: 2rem }
.verdict { display: inline-block; color: #fff; padding: .15rem .7rem; border-radius: 1rem; font-weight: 600 }
table { border-collapse: collapse } th, td { padding: .25rem .9rem .25rem 0; text-align: right; white-space: nowrap }
th:first-child, td:first-child { text-align: left } th { font-weight: 600; color: #555 }
tr + tr td { border-top: 1px solid #eee } .layers { width: 100% }
.bar { position: relative; height: .8rem; min-width: 8rem; background: #e3e7ea; border-radius: 2px }
.bar i { position: absolute; inset: 0 auto 0 0; background: #0b6e4f; border-radius: 2px } .note { color: #666 }
"""


def page(name: str, report: dict[str, Any]) -> str:
    """The whole page."""
    word, colour = VERDICTS[report["verdict"]]
    whom = "parent" if report["dense_epoch"] is None else "dense"
    parts = [
        f"<h1>{escape(name)}</h1>",
        f'<p><span class="verdict" style="background:{colour}">{word}</span></p><p>{escape(report["reason"])}</p>',
        _dense(report["dense_epoch"]),
        _accuracy(report, whom),
        _confidence(report, whom),
        _latency(report["latency"], report["vnni"], whom),
        _sizes(report["sizes"], whom),
        _classes(report["classes"], whom),
        _layers(report["layers"]),
    ]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(name)}: report</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style><body>{"".join(parts)}</body></html>'
    )


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, kind: str = "") -> str:
    """Cells are HTML already."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in heads)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<table class="{kind}"><tr>{head}</tr>{body}</table>'


def _dense(epoch: int | None) -> str:
    """What a model without a parent is compared with."""
    if epoch is None:
        return ""
    return (
        f'<p class="note">Dense is this network as it was after epoch {epoch} of its training, before the first cut. '
        "The later epochs trained the cut one only.</p>"
    )


def _accuracy(report: dict[str, Any], whom: str) -> str:
    rows = []
    for part, found in report["accuracy"].items():
        change = found["difference"]
        span = f"{100 * change['low']:+.2f} to {100 * change['high']:+.2f}"
        known = [found[key] for key in ("before", "after_cut", "after") if found[key] is not None]
        rows.append([part, *map(_percent, known), f"{100 * change['mean']:+.2f}", span])
    cut = ["after the cut", "retrained"] if report["accuracy"]["test"]["after_cut"] is not None else ["this model"]
    heads = ["images", whom, *cut, "points", "points, 95 %"]
    return f"<h2>Accuracy</h2>{_table(heads, rows)}"


def _confidence(report: dict[str, Any], whom: str) -> str:
    """How far probabilities and label sets can be believed; reports of before there were either have the error only."""
    found = report["calibration"] or {"ece_uncalibrated": report["calibration_error"]}
    rows = [[label, *_both(found[key], shown)] for key, (label, shown) in CONFIDENCE.items() if key in found]
    for row in found.get("coverage", []):
        asked = f"{100 * row['asked']:g} % asked for: label sets"
        rows.append([f"{asked} with the label in them", *_both(row["measured"], _percent)])
        rows.append([f"{asked}, labels on average", *_both(row["mean_set_size"], "{:.2f}".format)])
    note = f'<p class="note">{_chance(found)}</p>' if found.get("coverage") else ""
    return f"<h2>Confidence</h2>{_table(['on the test images', whom, 'this model'], rows)}{note}"


def _both(pair: dict[str, Any], shown: Callable[[Any], str]) -> list[str]:
    return ["–" if pair[who] is None else shown(pair[who]) for who in ("before", "after")]


def _chance(found: dict[str, Any]) -> str:
    """By how much coverage may be off: both splits are samples, and what is asked for is a share of either."""
    fitted, tested, asked = found["validation_images"]["after"], found["test_images"], found["coverage"][-1]["asked"]
    if not fitted or not tested:
        return ""
    off = 196 * math.sqrt(asked * (1 - asked) * (1 / fitted + 1 / tested))
    return (
        f"Fitted on {fitted:,} validation images, which also chose the epoch, and measured on {tested:,} test images. "
        f"Where {100 * asked:g} % are asked for, chance alone moves what is measured by {off:.1f} points or less, "
        "in 19 cases of 20."
    )


def _latency(rows: list[dict[str, Any]], vnni: bool | None, whom: str) -> str:
    cells = [
        [str(row["batch"]), *(f"{row[who][key]:.3g}" for key in ("p50", "p95") for who in ("parent", "child")),
         f"{row['speedup']:.2f}", f"{row['low']:.2f} to {row['high']:.2f}"]
        for row in rows
    ]  # fmt: skip
    heads = ["images at once", f"{whom} p50", "p50", f"{whom} p95", "p95", "times as fast", "95 %"]
    note = "Milliseconds from pixels to answers where it was made: both models in turn, each in its fastest runtime."
    if vnni is not None:
        has = "has" if vnni else "has no"
        note += f" The processor {has} VNNI, which multiplies 8-bit integers four at a time."
    return f'<h2>Latency</h2>{_table(heads, cells)}<p class="note">{note}</p>'


def _sizes(sizes: dict[str, dict[str, int | None]], whom: str) -> str:
    rows = []
    for key, label in SIZES.items():
        before, after = (sizes.get(key) or {}).get("before"), (sizes.get(key) or {}).get("after")
        if before is not None and after is not None:
            rows.append([label, f"{before:,}", f"{after:,}", _percent(after / before) if before else ""])
    return f"<h2>Size</h2>{_table(['', whom, 'this model', f'of the {whom}'], rows)}"


def _classes(classes: list[dict[str, Any]], whom: str) -> str:
    if not classes:
        return "<h2>Classes</h2><p>No class lost anything on the test images.</p>"
    rows = [[escape(str(row["label"])), _percent(row["before"]), _percent(row["after"])] for row in classes]
    return f"<h2>Classes that lost most</h2>{_table(['class', whom, 'this model'], rows)}"


def _layers(layers: list[dict[str, Any]]) -> str:
    rows = []
    for layer in layers:
        before, after = layer["shape"]["before"], layer["shape"]["after"]
        left = _product(after) * (1 - layer["zeros"]) / _product(before)
        bar = f'<div class="bar"><i style="width:{100 * left:.1f}%"></i></div>'
        rows.append([escape(layer["name"]), f"{before[0]} → {after[0]}" if before[0] != after[0] else str(after[0]),
                     _percent(layer["zeros"]), bar, _percent(left),
                     *([f"{layer['bits']} bits"] if "bits" in layer else [])])  # fmt: skip
    heads = ["layer", "channels", "zeros", "", "weights left", *(["kept in"] if "bits" in layers[0] else [])]
    return f"<h2>Layers</h2>{_table(heads, rows, kind='layers')}"


def _product(shape: Sequence[int]) -> int:
    product = 1
    for side in shape:
        product *= side
    return product


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"
