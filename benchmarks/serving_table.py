"""The rows of all turns as a table, and what is asked of them."""

from __future__ import annotations

from statistics import median
from typing import Any

Row = dict[str, Any]
HEADER = (
    f"{'server':14}{'connections':>12}{'requests/s':>26}{'p50 ms':>9}{'p99 ms':>9}{'server ms':>11}{'wrk ms':>8}"
    f"{'MiB':>7}{'errors':>8}{'of limit':>10}"
)
# Triton's client sends pixels too; no other server is asked by it.
SAME_BYTES = {"triton": "raw"}
GOAL = {"network": "mobilenet_v2-32", "body": "png"}


def table(rows: list[Row]) -> str:
    """A block for each network and body; medians over turns, requests per second with the least and the most."""
    lines = []
    for network, body in dict.fromkeys((row["network"], row["body"]) for row in rows if "body" in row):
        own = [row for row in rows if row["network"] == network]
        lines += ["", f"{network}, {body}; runtime alone: {_limit(own)}", HEADER]
        found = [row for row in own if row.get("body") == body]
        points = sorted({(row["connections"], row["server"]) for row in found}, key=_ours_first)
        for connections, server in points:
            lines.append(
                _line([row for row in found if (row["connections"], row["server"]) == (connections, server)], own)
            )
    return "\n".join(lines)


def _ours_first(point: tuple[int, str]) -> tuple[int, bool, str]:
    return point[0], point[1] != "pruneyard", point[1]


def _limit(rows: list[Row]) -> str:
    alone = [row for row in rows if "images_per_second" in row]
    return f"{_spread(alone, 'images_per_second')} images/s in {alone[0]['runtime']}"


def _line(rows: list[Row], of_network: list[Row]) -> str:
    first = rows[0]
    share = share_of_limit(first, median(row["requests_per_second"] for row in rows), of_network)
    memory = _median(rows, "pss" if "pss" in first else "rss")
    errors = sum(row["refused"] + row["broken"] for row in rows)
    return (
        f"{first['server']:14}{first['connections']:12}{_spread(rows, 'requests_per_second'):>26}"
        f"{_median(rows, 'p50'):9.2f}{_median(rows, 'p99'):9.2f}{_median(rows, 'server_ms'):11.3f}"
        f"{_median(rows, 'generator_ms'):8.3f}{memory:7.0f}{errors:8}{share:>10}"
    )


def share_of_limit(point: Row, rate: float, of_network: list[Row]) -> str:
    """A rate as a share of the smaller limit: the runtime alone, or the bare route over as many connections."""
    limit = smaller_limit(point, of_network)
    return f"{100 * rate / limit:.1f} %" if limit else ""


def smaller_limit(point: Row, of_network: list[Row]) -> float | None:
    alone = [row["images_per_second"] for row in of_network if "images_per_second" in row]
    body = SAME_BYTES.get(point["body"], point["body"])
    bare = [
        row["requests_per_second"]
        for row in of_network
        if row["server"] == "bare" and (row["body"], row["connections"]) == (body, point["connections"])
    ]
    return min(median(alone), median(bare)) if alone and bare else None


def goals(rows: list[Row]) -> dict[str, float]:
    """What is asked of MobileNetV2 at 32 x 32 by PNG, against the better of LitServe's two forms."""
    of_network = [row for row in rows if row["network"] == GOAL["network"]]
    own = [row for row in of_network if row.get("body") == GOAL["body"]]
    rates = {server: _of(own, server, 64, "requests_per_second") for server in ("pruneyard", "eager")}
    waits = [_of(own, name, 64, "requests_per_second") for name in ("litserve", "litserve-0")]
    latencies = [_of(own, name, 1, "p50") for name in ("litserve", "litserve-0")]
    p50 = _of(own, "pruneyard", 1, "p50")
    limit = smaller_limit({**GOAL, "connections": 64}, of_network)
    found = {
        "requests/s at 64 connections, times LitServe's (5 wanted)": _ratio(rates["pruneyard"], max(waits, key=_known)),
        "requests/s at 64 connections, times eager's (30 wanted)": _ratio(rates["pruneyard"], rates["eager"]),
        "p50 at 1 connection, LitServe's times ours (5 wanted)": _ratio(min(latencies, key=_last), p50),
        "p50 at 1 connection, ms (2 at most wanted)": p50,
        "requests/s at 64 connections, of the smaller limit (0.5 wanted)": _ratio(rates["pruneyard"], limit),
    }
    return {name: round(value, 2) for name, value in found.items() if value is not None}


def _of(rows: list[Row], server: str, connections: int, name: str) -> float | None:
    values = [row[name] for row in rows if (row["server"], row["connections"]) == (server, connections)]
    return median(values) if values else None


def _known(value: float | None) -> float:
    return 0.0 if value is None else value


def _last(value: float | None) -> float:
    return float("inf") if value is None else value


def _ratio(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below else None


def _median(rows: list[Row], name: str) -> float:
    values: list[float] = [row[name] for row in rows]
    return median(values)


def _spread(rows: list[Row], name: str) -> str:
    values = [row[name] for row in rows]
    return f"{median(values):,.0f} ({min(values):,.0f} to {max(values):,.0f})"
