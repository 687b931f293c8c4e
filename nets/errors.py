"""What can go wrong with a network, each with a sentence for people."""

from __future__ import annotations


class NetError(Exception):
    """Anything that goes wrong with a network for a reason that can be told."""


class NonFiniteLoss(NetError):
    """The loss became infinite or not a number; `step` counts from 1 and is None for the validation loss."""

    what = "The loss is no longer a finite number"

    def __init__(self, epoch: int, step: int | None) -> None:
        where = f"in step {step} of epoch {epoch}" if step is not None else f"on the validation split, epoch {epoch}"
        super().__init__(f"{self.what} ({where}). A smaller learning rate may help.")
        self.epoch = epoch
        self.step = step


class NonFiniteWeights(NonFiniteLoss):
    """A step made weights infinite or not numbers, though its own loss was still finite."""

    what = "Weights are no longer finite numbers"


class Interrupted(NetError):
    """A training stopped because it was asked to. `step` counts those done of `epoch`, all of them in a checkpoint."""

    def __init__(self, epoch: int, step: int) -> None:
        super().__init__(f"The training was stopped after step {step} of epoch {epoch}.")
        self.epoch = epoch
        self.step = step


class DeviceUnavailable(NetError):
    """A device was asked for that this machine does not have, or that does not work."""


class BatchTooSmall(NetError):
    """Batch normalisation has no variance to learn from in a batch of one image."""

    def __init__(self) -> None:
        super().__init__("This network normalises over batches: it needs batches of at least two images.")


class TooLarge(NetError):
    """The parameters of a network do not fit into memory as training needs them; sizes in gigabytes."""

    def __init__(self, parameters: int, needed: float, available: float) -> None:
        super().__init__(
            f"This network has {parameters:,} parameters. To train them takes more than {needed:.1f} GB of memory, and "
            f"{available:.1f} GB are free. Take a narrower network or a smaller image_size."
        )


class PrecisionUnavailable(NetError):
    """A training was asked for in numbers that the device has no instructions for."""

    def __init__(self) -> None:
        super().__init__(
            "This device has no instructions for bfloat16 (on a processor AVX512-BF16 or AMX), and without them it is "
            'many times slower than float32. Set precision to "float32", or to "auto", which takes float32 here.'
        )


class WrongClassWeights(NetError):
    """Class weights were given for another number of classes than the data set has."""

    def __init__(self, given: int, classes: int) -> None:
        super().__init__(
            f"loss.class_weights has {given} numbers, and the data set has {classes} classes. Give one for each, in "
            'the order in which the data set names its classes, or "balanced".'
        )


class PretrainedUnavailable(NetError):
    """Pretrained weights are neither on this machine nor to be had; `why` in a few words."""

    def __init__(self, file: str, why: str) -> None:
        super().__init__(
            f"The pretrained weights are not on this machine and cannot be downloaded ({why}). Place the file {file} "
            "in the folder that PRUNEYARD_PRETRAINED_DIR names, or connect this machine to the internet."
        )


class PretrainedDamaged(NetError):
    """A file of pretrained weights is not what its name says."""

    def __init__(self, file: str, why: str) -> None:
        super().__init__(
            f"The pretrained weights in {file} cannot be used: {why}. Remove the file, or download it anew."
        )


class PretrainedMismatch(NetError):
    """Pretrained weights lack layers of the network, or have them in other shapes; `layers` names some."""

    def __init__(self, layers: str) -> None:
        super().__init__(
            f"The pretrained weights do not fit this network; these differ: {layers}. Leave all options of the "
            "architecture at their defaults (width 1, stem paper), or leave out pretrained."
        )


class OtherClasses(NetError):
    """A teacher knows other classes than its student is to learn."""

    def __init__(self, teacher: int, student: int) -> None:
        super().__init__(f"The teacher knows {teacher} classes, and the student is to learn {student}.")


class CannotCut(NetError):
    """Channels of a network cannot be cut as was asked; `why` in a few words."""

    def __init__(self, why: str) -> None:
        super().__init__(f"This network cannot be pruned so: {why}.")


class UnknownLayer(NetError):
    """A layer was named that the network does not have; `hint` offers the nearest."""

    def __init__(self, name: str, hint: str) -> None:
        super().__init__(f"The model has no layer {name[:100]!r} whose weights could be cut. {hint[:300]}")


class CannotCompare(NetError):
    """A model cannot be run here any more, so nothing can be timed beside it; `why` as it was found out."""

    def __init__(self, why: str) -> None:
        super().__init__(f"The model cannot be run here, and no speed be found beside it: {why[:300]}")


class TargetNotReached(NetError):
    """However much is cut, what was asked for is not reached; `best` is the most that is, in the target's own unit."""

    def __init__(self, target: str, asked: float, best: float) -> None:
        super().__init__(
            f"{target} {asked:g} cannot be reached: with all channels cut that may be, it is {best:.3g}. Ask for that "
            "or less, or let layers get narrower with a smaller round_to."
        )
        self.best = best


class AccuracyLost(NetError):
    """Whichever layers stay in float32, quantizing costs more accuracy than it may; `least` is the least it costs."""

    def __init__(self, allowed: float, least: float) -> None:
        super().__init__(
            f"max_drop {allowed:g} cannot be held: validation accuracy falls by {least:.3g} at least. Ask for as much, "
            "or give more calibration_images."
        )
        self.least = least


class CheckpointLost(NetError):
    """The checkpoint of the best epoch is not there any more."""

    def __init__(self, epoch: int) -> None:
        super().__init__(f"The checkpoint of the best epoch ({epoch}) is missing.")
        self.epoch = epoch


_OUT_OF_MEMORY = ("not enough memory", "can't allocate memory", "out of memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; PyTorch's CPU allocator raises a plain RuntimeError."""
    # Torch's own class by its name: whoever asks has not always loaded torch, and should not have to.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _OUT_OF_MEMORY)
