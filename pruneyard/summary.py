"""A data set on a page: what is in it, what is wrong with it, and which files could not be used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from rich.console import Group, RenderableType
from rich.text import Text

from pruneyard.answers import ConflictExample, Conflicts, Dataset, Duplicates, ImageSizes, RejectedFile
from pruneyard.figures import figure, grid, percent, size, table

MOST_CLASSES = 50
MOST_REJECTED = 20
MOST_EXAMPLES = 3
SPLITS = ("train", "validation", "test")
ORIGINS = {
    "rule": "made by the service",
    "given": "as they came",
    "given test": "test as it came",
    "given validation": "validation as it came",
}


def summary(dataset: Dataset) -> RenderableType:
    """Everything about a data set that fits on a page or two."""
    parts: list[RenderableType] = [Text(_title(dataset), style="bold"), grid(_facts(dataset))]
    parts += [Text(f"! {warning}", style="yellow") for warning in dataset.get("warnings") or ()]
    if dataset.get("class_images"):
        parts.append(_classes(dataset))
    if dataset.get("rejected"):
        parts.append(_rejected(dataset))
    return Group(*parts)


def _title(dataset: Dataset) -> str:
    version = dataset.get("version")
    named = f"{dataset.get('name', '')}, version {version}" if version else str(dataset.get("name", ""))
    return f"{named}: {dataset['status']}"


def _facts(dataset: Dataset) -> Iterator[tuple[str, str]]:
    yield "id", dataset["id"]
    yield "why", ": ".join(filter(None, (dataset.get("reason"), dataset.get("message"))))
    yield "arrived", _arrived(dataset)
    yield "read by", (dataset.get("job") or "") if dataset["status"] == "processing" else ""
    yield "source", _source(dataset)
    if not dataset.get("images"):
        return
    yield "images", _images(dataset)
    yield "splits", _splits(dataset)
    yield "sizes", _sizes(dataset.get("sizes") or {})
    yield "trained at", _trained_at(dataset)
    yield "mean, std", _moments(dataset)
    yield "duplicates", _duplicates(dataset.get("duplicates") or {})
    yield "conflicts", _conflicts(dataset.get("conflicts") or {})
    yield "rejected", _count(dataset.get("rejected_count"))
    yield "stored", size(dataset["bytes"]) if dataset.get("bytes") else ""
    yield "fingerprint", dataset.get("fingerprint") or ""


def _arrived(dataset: Dataset) -> str:
    state = dataset.get("upload")
    if state is None:
        return ""
    total = state.get("total")
    return f"{size(state['received'])} of {size(total)}" if total else size(state["received"])


def _source(dataset: Dataset) -> str:
    source = dataset.get("source") or {}
    return " ".join(str(value) for value in source.values())


def _images(dataset: Dataset) -> str:
    text = f"{dataset['images']:,} in {len(dataset.get('classes') or ()):,} classes"
    imbalance = dataset.get("imbalance")
    if not imbalance or imbalance == 1:
        return text
    return f"{text}; the largest has {figure(imbalance, ',.1f')} times the images of the smallest"


def _splits(dataset: Dataset) -> str:
    counts = dataset.get("splits") or {}
    origin = ORIGINS.get(dataset.get("splits_from") or "", "")
    text = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    return f"{text} ({origin})" if text and origin else text


def _sizes(sizes: ImageSizes) -> str:
    least, middle, most = map(_pixels, (sizes.get("min"), sizes.get("median"), sizes.get("max")))
    if least == most:
        return f"{least}, all of them" if least else ""
    return f"{least} to {most}, middle {middle} ({sizes.get('distinct', 0):,} different ones)"


def _pixels(pair: Sequence[int] | None) -> str:
    return "x".join(map(str, pair or ()))


def _trained_at(dataset: Dataset) -> str:
    side, channels = dataset.get("image_size"), dataset.get("channels")
    colour = {1: "grey", 3: "colour"}.get(channels or 0, f"{channels} channels")
    return f"{side}x{side}, {colour}, unless a job says otherwise" if side else ""


def _moments(dataset: Dataset) -> str:
    both = (dataset.get("mean") or (), dataset.get("std") or ())
    return ", ".join(" ".join(figure(value, ".3f") for value in values) for values in both if values)


def _duplicates(found: Duplicates) -> str:
    counts = {"same bytes": found.get("same_bytes", 0), "same picture": found.get("same_pixels", 0)}
    examples = [", ".join(paths) for paths in found.get("examples") or ()]
    return _counted(counts, examples) if found else ""


def _conflicts(found: Conflicts) -> str:
    counts = {"in several classes": found.get("labels", 0), "in several splits": found.get("splits", 0)}
    counts["left out"] = found.get("left_out", 0)
    return _counted(counts, [_conflict(example) for example in found.get("examples") or ()]) if found else ""


def _conflict(example: ConflictExample) -> str:
    where = example.get("splits") if example.get("kind") == "splits" else example.get("labels")
    return ", ".join(f"{path} ({place})" for path, place in zip(example.get("paths") or (), where or (), strict=False))


def _counted(counts: Mapping[str, int], examples: Sequence[str]) -> str:
    if not any(counts.values()):
        return "none"
    text = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    return "\n".join([text, *(f"such as {example}" for example in islice(examples, MOST_EXAMPLES))])


def _count(count: int | None) -> str:
    return "" if count is None else f"{count:,}" if count else "none"


def _classes(dataset: Dataset) -> RenderableType:
    """A row for each class; of very many only the largest and the smallest."""
    counts = dataset["class_images"]
    names = [name for name in dataset.get("classes") or counts if name in counts]
    title = ""
    if len(names) > MOST_CLASSES:
        half = MOST_CLASSES // 2
        title = f"The {half} largest and the {half} smallest of {len(names):,} classes"
        names.sort(key=lambda name: -counts[name])
        names = [*names[:half], *names[-half:]]
    by_split = dataset.get("class_splits") or {}
    splits = SPLITS if by_split else ()
    rows = [[name, *_class_figures(dataset, name, splits)] for name in names]
    numbers = ("images", "share", *splits)
    return _titled(title, table(["class", *numbers], rows, numbers=numbers))


def _class_figures(dataset: Dataset, name: str, splits: Sequence[str]) -> list[str]:
    count = dataset["class_images"][name]
    parts = (dataset.get("class_splits") or {}).get(name) or {}
    share = count / max(sum(dataset["class_images"].values()), 1)
    return [f"{count:,}", percent(share), *(figure(parts.get(split), ",") for split in splits)]


def _rejected(dataset: Dataset) -> RenderableType:
    files = dataset["rejected"][:MOST_REJECTED]
    count = max(dataset.get("rejected_count") or 0, len(files))
    title = "Files that could not be used"
    if count > len(files):
        title = f"{title}: the first {len(files)} of {count:,}"
    return _titled(title, table(["file", "reason", "what is wrong"], map(_rejected_row, files)))


def _titled(title: str, below: RenderableType) -> RenderableType:
    # A table would fold its own title at its own width.
    return Group(Text(title), below) if title else below


def _rejected_row(file: RejectedFile) -> list[str]:
    return [file.get("path", ""), file.get("reason", ""), file.get("message", "")]
