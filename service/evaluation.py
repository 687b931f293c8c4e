"""How a model did on the test images, class by class."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from pydantic import Field

from service.schemas import Schema
from store.tables import Model

# Two-sided 95 % of the normal distribution.
Z = 1.96
MISTAKES = 100


class ClassResult(Schema):
    """A class: how many of its images were recognised, and how often what was taken for it was it."""

    label: str
    index: int
    images: int = Field(description="Of this class among the test images.")
    right: int
    named: int = Field(description="Images that were taken for this class.")
    recall: float | None = Field(description="`right` of `images`; null for a class without images.")
    precision: float | None = Field(description="`right` of `named`; null for a class that was never named.")


class Mistake(Schema):
    """Images of one class that were taken for another."""

    label: str
    taken_for: str
    images: int


class Evaluation(Schema):
    """Answers of a model to the test images, as they were when it was published."""

    model: str
    images: int
    accuracy: float
    interval: tuple[float, float] = Field(description="Of the accuracy at 95 %, by Wilson's score.")
    balanced_accuracy: float = Field(description="The mean recall of the classes that have test images.")
    test_loss: float | None
    validation_accuracy: float | None
    validation_loss: float | None
    classes: list[ClassResult]
    mistakes: list[Mistake] = Field(description=f"The most frequent first, {MISTAKES} at most.")
    confusion: list[tuple[int, int, int]] = Field(
        description="[index of the class, index of the class it was taken for, images]: cells that are not zero."
    )


def evaluation(row: Model, cells: Sequence[Sequence[int]]) -> Evaluation:
    """From the cells that were counted when the model was published."""
    labels: list[str] = row.facts["classes"]
    metrics = row.facts["metrics"]
    known = [(label, named, images) for label, named, images in cells]
    classes = _classes(labels, known)
    images, right = sum(each.images for each in classes), sum(each.right for each in classes)
    recalls = [each.recall for each in classes if each.recall is not None]
    wrong = sorted((cell for cell in known if cell[0] != cell[1]), key=lambda cell: (-cell[2], cell))
    return Evaluation(
        model=row.id,
        images=images,
        accuracy=right / images,
        interval=_wilson(right, images),
        balanced_accuracy=sum(recalls) / len(recalls),
        **{name: metrics.get(name) for name in ("test_loss", "validation_accuracy", "validation_loss")},
        classes=classes,
        mistakes=[
            Mistake(label=labels[label], taken_for=labels[named], images=count)
            for label, named, count in wrong[:MISTAKES]
        ],
        confusion=known,
    )


def _classes(labels: Sequence[str], cells: Sequence[tuple[int, int, int]]) -> list[ClassResult]:
    images: Counter[int] = Counter()
    named: Counter[int] = Counter()
    right: Counter[int] = Counter()
    for label, other, count in cells:
        images[label] += count
        named[other] += count
        right[label] += count if label == other else 0
    return [
        ClassResult(
            label=label,
            index=index,
            images=images[index],
            right=right[index],
            named=named[index],
            recall=right[index] / images[index] if images[index] else None,
            precision=right[index] / named[index] if named[index] else None,
        )
        for index, label in enumerate(labels)
    ]


def _wilson(right: int, images: int) -> tuple[float, float]:
    """Wilson, J. Am. Stat. Assoc. 22, 1927: within 0 and 1, and right for few images too."""
    share, weight = right / images, Z**2 / images
    middle = (share + weight / 2) / (1 + weight)
    reach = Z * math.sqrt(share * (1 - share) / images + weight / (4 * images)) / (1 + weight)
    return max(0.0, middle - reach), min(1.0, middle + reach)
