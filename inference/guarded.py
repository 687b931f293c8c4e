"""A network on a device that may hang or fail, beside the same network on the CPU, which answers whenever it does.

The device has a thread of its own. Nobody waits for it longer than a limit; a thread that hangs is left behind.
"""

from __future__ import annotations

import math
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue

import numpy as np
from numpy.typing import NDArray

from inference.runtimes import Network

Images = NDArray[np.float32]
Logits = NDArray[np.float32]
# Brings the network up: the network, and the milliseconds that an image takes on it.
BringUp = Callable[[], tuple[Network, float]]

# A call may take so many times what was measured before it counts as a hang, and `call_seconds` in any case.
PATIENCE = 50


class Fault(RuntimeError):
    """The device did not answer, or with what is no answer."""


class Lane:
    """The thread of one network on the device: brings it up, then runs what it is given, one call after the other."""

    def __init__(self, bring_up: BringUp, *, call_seconds: float, on_failure: Callable[[str], None]) -> None:
        self.settled = threading.Event()
        self._network: Network | None = None
        self._milliseconds = 0.0
        self._call_seconds = call_seconds
        self._calls: SimpleQueue[tuple[Future[Logits], Images] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        # Not of a pool, whose threads the interpreter waits for at its end.
        threading.Thread(target=self._work, args=(bring_up, on_failure), name="device", daemon=True).start()

    @property
    def open(self) -> bool:
        """Whether it takes calls."""
        return self._network is not None and not self._closed

    def run(self, images: Images) -> Logits:
        """What should be logits (N, classes); Fault if the device raises, takes too long or gives something else."""
        call: Future[Logits] = Future()
        with self._lock:
            if self._closed:
                raise Fault("it has been given up")
            self._calls.put((call, images))
        limit = max(self._call_seconds, PATIENCE * self._milliseconds * len(images) / 1000)
        try:
            logits = call.result(limit)
        except TimeoutError:
            raise Fault(f"it did not answer within {limit:.3g} seconds") from None
        except Exception as error:
            raise Fault(f"{type(error).__name__}: {str(error)[:300]}") from error
        if not isinstance(logits, np.ndarray) or logits.ndim != 2 or len(logits) != len(images):
            raise Fault("it answered with something else than logits")
        if logits.dtype != np.float32:
            raise Fault("it answered with what are no numbers")
        return logits

    def close(self) -> None:
        """Takes no more calls; whoever waits in the queue is told at once, and the thread ends when it can."""
        with self._lock:
            self._closed = True
            try:
                while (waiting := self._calls.get_nowait()) is not None:
                    waiting[0].set_exception(Fault("it has been given up"))
            except Empty:
                pass
            self._calls.put(None)

    def _work(self, bring_up: BringUp, on_failure: Callable[[str], None]) -> None:
        try:
            network, self._milliseconds = bring_up()
        except Exception as error:
            self.close()
            on_failure(str(error)[:300] or type(error).__name__)
            return
        else:
            self._network = network
        finally:
            self.settled.set()
        while (task := self._calls.get()) is not None:
            _answer(network, *task)
            del task
        self._network = None


def _answer(network: Network, call: Future[Logits], images: Images) -> None:
    try:
        call.set_result(network(images))
    except Exception as error:
        call.set_exception(error)


class Guarded:
    """A network that is called like any other. The CPU answers until the device is up, and again after any fault.

    `on_failure` hears that the device could not be brought up in `up_seconds`, `on_fault` that it failed over a call.
    `usable` is asked before each call. `largest` is how far from nought pixels may lie as the network reads them: other
    values may be beyond what the device computes with, and that is no fault of it.
    """

    def __init__(
        self,
        safe: Network,
        bring_up: BringUp,
        *,
        call_seconds: float,
        up_seconds: float,
        usable: Callable[[], bool],
        on_failure: Callable[[str], None],
        on_fault: Callable[[str], None],
        largest: float = math.inf,
    ) -> None:
        self._safe = safe
        self._usable = usable
        self._on_failure = on_failure
        self._on_fault = on_fault
        self._largest = largest
        self._up_until = time.monotonic() + up_seconds
        self._lane = Lane(bring_up, call_seconds=call_seconds, on_failure=on_failure)
        # The thread knows the lane only, so that it ends when nobody holds this network any more.
        weakref.finalize(self, self._lane.close).atexit = False

    def __call__(self, images: Images) -> Logits:
        if self._lane.open and self._usable():
            try:
                return self._checked(images, self._lane.run(images))
            except Fault as fault:
                self._lane.close()
                self._on_fault(str(fault))
        elif not self._lane.settled.is_set() and time.monotonic() > self._up_until:
            self._give_up_waiting()
        return self._safe(images)

    def _checked(self, images: Images, logits: Logits) -> Logits:
        """The device's answer, or the CPU's where that is no number; Fault if values of pixels came to that."""
        lost = ~np.isfinite(logits).all(axis=1)
        if not lost.any():
            return logits
        safe = self._safe(images)
        usual = np.abs(images).reshape(len(images), -1).max(axis=1) <= self._largest
        if np.any(lost & usual & np.isfinite(safe).all(axis=1)):
            raise Fault("it answered with what are no numbers")
        return safe

    @property
    def on_device(self) -> bool:
        """Whether the next call goes to the device."""
        return self._lane.open and self._usable()

    def _give_up_waiting(self) -> None:
        self._lane.close()
        self._lane.settled.set()
        self._on_failure("it did not come up")

    def settle(self, seconds: float) -> bool:
        """Waits for so long until the device is up or has failed to come up; whether it is one of both."""
        return self._lane.settled.wait(seconds)
