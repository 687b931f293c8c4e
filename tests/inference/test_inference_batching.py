from __future__ import annotations

import asyncio
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from inference.batching import Batcher, BatcherClosed, QueueFull, TooManyImages
from inference.models import load_model

BAD = 255


def image(tag: int) -> np.ndarray:
    """An image that bears a number in its first two bytes."""
    pixels = np.zeros((2, 2, 1), np.uint8)
    pixels.flat[:2] = divmod(tag, 256)
    return pixels


def tags(batch: np.ndarray) -> np.ndarray:
    numbers = batch.reshape(len(batch), -1).astype(np.float32)
    return np.stack([numbers[:, 0] * 256 + numbers[:, 1], -numbers[:, 1]], axis=1)


class Network:
    """Answers with the tag of each image; can be held, and fails on images marked bad."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go = threading.Event()
        self.go.set()

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        answers = tags(batch)
        self.batches.append([int(tag) for tag in answers[:, 0]])
        assert self.go.wait(10)
        if np.any(batch[:, 1, 1, 0] == BAD):
            raise ArithmeticError("a bad image")
        return answers


def bad_image(tag: int) -> np.ndarray:
    pixels = image(tag)
    pixels[1, 1, 0] = BAD
    return pixels


@pytest.fixture
def network():
    made = Network()
    yield made
    made.go.set()


async def started(network: Network, batches: int = 1) -> None:
    while len(network.batches) < batches:
        await asyncio.sleep(0.001)


async def occupy(batcher: Batcher, network: Network) -> asyncio.Task:
    """Holds the network with one image of tag 9999."""
    network.go.clear()
    task = asyncio.create_task(batcher.predict(image(9999)))
    await started(network)
    return task


def test_one_image_is_run_at_once(network):
    async def scenario():
        row = await Batcher(network).predict(image(300))
        assert row.tolist() == [300, -44]

    asyncio.run(scenario())
    assert network.batches == [[300]]


def test_what_gathers_while_a_batch_runs_is_the_next_batch(network):
    async def scenario():
        batcher = Batcher(network, max_batch=4)
        first = await occupy(batcher, network)
        others = [asyncio.create_task(batcher.predict(image(tag))) for tag in range(6)]
        await asyncio.sleep(0)
        assert batcher.waiting == 6
        network.go.set()
        rows = await asyncio.gather(first, *others)
        assert [int(row[0]) for row in rows] == [9999, *range(6)]

    asyncio.run(scenario())
    assert network.batches == [[9999], [0, 1, 2, 3], [4, 5]]


def test_the_next_batch_does_not_wait_for_the_loop(network):
    async def scenario():
        batcher = Batcher(network, max_batch=2)
        first = await occupy(batcher, network)
        others = [asyncio.create_task(batcher.predict(image(tag))) for tag in range(4)]
        await asyncio.sleep(0)
        network.go.set()
        until = time.monotonic() + 10
        while len(network.batches) < 3 and time.monotonic() < until:
            time.sleep(0.001)  # the loop does nothing else meanwhile
        assert network.batches == [[9999], [0, 1], [2, 3]]
        rows = await asyncio.gather(first, *others)
        assert [int(row[0]) for row in rows] == [9999, *range(4)]

    asyncio.run(scenario())


def test_many_images_come_back_in_order(network):
    async def scenario():
        rows = await Batcher(network, max_batch=4).predict_many(np.stack([image(tag) for tag in range(11)]))
        np.testing.assert_array_equal(rows, tags(np.stack([image(tag) for tag in range(11)])))

    asyncio.run(scenario())
    assert [len(batch) for batch in network.batches] == [4, 4, 3]


def test_answers_never_cross_under_cancellations():
    shuffled = random.Random(0)

    def slow(batch):
        time.sleep(0.001)
        return tags(batch)

    async def one(batcher, tag, answers):
        await asyncio.sleep(shuffled.random() * 0.2)
        if tag % 10 == 0:
            rows = await batcher.predict_many([image(tag), image(tag + 40_000), image(tag)])
            assert [int(row[0]) for row in rows] == [tag, tag + 40_000, tag]
            answers[tag] = rows[0]
        else:
            answers[tag] = await batcher.predict(image(tag))

    async def cancel_some(tasks):
        victims = shuffled.sample(tasks, 3000)
        for task in victims:
            await asyncio.sleep(shuffled.random() * 0.0001)
            task.cancel()

    async def scenario():
        with ThreadPoolExecutor(2) as executor:
            batchers = [Batcher(slow, max_queued=12_000, executor=executor) for _ in range(3)]
            answers: dict[int, np.ndarray] = {}
            tasks = [asyncio.create_task(one(batchers[tag % 3], tag, answers)) for tag in range(10_000)]
            await cancel_some(tasks)
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            assert {type(outcome) for outcome in outcomes} <= {type(None), asyncio.CancelledError}
            cancelled = {tag for tag, outcome in enumerate(outcomes) if outcome is not None}
            assert 0 < len(cancelled) <= 3000
            assert set(answers) == set(range(10_000)) - cancelled
            for tag, row in answers.items():
                assert row.tolist() == [tag, -(tag % 256)]
            assert all(batcher.waiting == 0 for batcher in batchers)

    asyncio.run(scenario())


def test_a_cancelled_request_leaves_the_queue(network):
    async def scenario():
        batcher = Batcher(network, max_queued=3)
        first = await occupy(batcher, network)
        tasks = [asyncio.create_task(batcher.predict(image(tag))) for tag in range(3)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        await asyncio.sleep(0.01)
        assert batcher.waiting == 2
        tasks.append(asyncio.create_task(batcher.predict(image(3))))
        await asyncio.sleep(0)
        network.go.set()
        await asyncio.gather(first, *tasks, return_exceptions=True)
        assert [task.cancelled() for task in tasks] == [False, True, False, False]

    asyncio.run(scenario())
    assert network.batches == [[9999], [0, 2, 3]]


def test_cancelling_a_request_in_a_running_batch_hurts_no_other(network):
    async def scenario():
        batcher = Batcher(network)
        first = await occupy(batcher, network)
        tasks = [asyncio.create_task(batcher.predict(image(tag))) for tag in range(3)]
        await asyncio.sleep(0)
        first.cancel()
        network.go.set()
        assert [int((await task)[0]) for task in tasks] == [0, 1, 2]

    asyncio.run(scenario())


def test_a_full_queue_says_how_many_wait_and_for_how_long(network):
    async def scenario():
        batcher = Batcher(network, max_queued=2)
        first = await occupy(batcher, network)
        waiting = asyncio.create_task(batcher.predict_many([image(0), image(1)]))
        await asyncio.sleep(0)
        with pytest.raises(QueueFull) as caught:
            await batcher.predict(image(2))
        assert caught.value.waiting == 2
        assert caught.value.retry_after > 0
        network.go.set()
        await asyncio.gather(first, waiting)
        assert int((await batcher.predict(image(3)))[0]) == 3

    asyncio.run(scenario())


@pytest.mark.parametrize("count", [0, 3])
def test_a_request_that_can_never_fit_is_told_so(network, count):
    async def scenario():
        with pytest.raises(TooManyImages, match="1 to 2 images"):
            await Batcher(network, max_queued=2).predict_many([image(0)] * count)

    asyncio.run(scenario())


def test_a_bad_image_fails_alone(network):
    async def scenario():
        batcher = Batcher(network)
        first = await occupy(batcher, network)
        images = [image(0), bad_image(1), image(2), np.zeros((3, 3, 1), np.uint8)]
        tasks = [asyncio.create_task(batcher.predict(pixels)) for pixels in images]
        await asyncio.sleep(0)
        network.go.set()
        await first
        good, bad, also_good, other_size = await asyncio.gather(*tasks, return_exceptions=True)
        assert (good[0], also_good[0], other_size[0]) == (0, 2, 0)
        assert isinstance(bad, ArithmeticError)

    asyncio.run(scenario())


def test_a_bad_image_among_many_fails_its_own_request_only(network):
    async def scenario():
        batcher = Batcher(network)
        first = await occupy(batcher, network)
        bad = asyncio.create_task(batcher.predict_many([bad_image(0), image(1), bad_image(2)]))
        good = asyncio.create_task(batcher.predict_many([image(3), image(4)]))
        await asyncio.sleep(0)
        network.go.set()
        await first
        assert (await good)[:, 0].tolist() == [3, 4]
        with pytest.raises(ArithmeticError):
            await bad

    asyncio.run(scenario())


def test_too_few_answers_are_an_error_and_not_anothers_answer():
    async def scenario():
        with pytest.raises(RuntimeError, match="1 images gave 0 answers"):
            await Batcher(lambda batch: tags(batch)[:0]).predict(image(1))

    asyncio.run(scenario())


def test_closing_fails_what_waits_and_finishes_what_runs(network):
    async def scenario():
        batcher = Batcher(network)
        first = await occupy(batcher, network)
        waiting = asyncio.create_task(batcher.predict(image(1)))
        await asyncio.sleep(0)
        closing = asyncio.create_task(batcher.close())
        with pytest.raises(BatcherClosed, match="unloaded"):
            await waiting
        assert not closing.done()
        network.go.set()
        await closing
        assert int((await first)[0]) == 9999
        with pytest.raises(BatcherClosed):
            await batcher.predict(image(2))
        await batcher.close()

    asyncio.run(scenario())


def test_a_closed_batcher_is_replaced_while_others_go_on(network):
    async def scenario():
        other = Batcher(tags)
        for round_number in range(20):
            batcher = Batcher(tags)
            rows = await asyncio.gather(*(each.predict(image(round_number)) for each in (batcher, other)))
            assert [int(row[0]) for row in rows] == [round_number] * 2
            await batcher.close()

    asyncio.run(scenario())


def test_an_executor_that_is_shut_down_is_an_error_and_no_hang(network):
    async def scenario():
        executor = ThreadPoolExecutor(1)
        executor.shutdown()
        with pytest.raises(RuntimeError, match="shutdown"):
            await asyncio.wait_for(Batcher(network, executor=executor).predict(image(1)), 5)

    asyncio.run(scenario())


def test_a_loaded_model_behind_a_batcher(publish, pixels):
    published = publish()
    model = load_model(published.directory, threads=1)
    images = pixels(100, 3)

    async def scenario():
        batcher = Batcher(model.predict)
        return np.stack(await asyncio.gather(*(batcher.predict(each) for each in images)))

    np.testing.assert_allclose(asyncio.run(scenario()), published.expected(images), rtol=1e-4, atol=1e-4)


def test_a_quick_model_answers_at_once_when_it_is_idle() -> None:
    async def ask() -> None:
        batcher = Batcher(tags)
        images = [image(3), image(5)]
        assert batcher.predict_now(images) is None, "not before it is known to be quick"
        for _ in range(40):
            await batcher.predict(images[0])
        now = batcher.predict_now(images)
        assert now is not None
        assert now.tolist() == (await batcher.predict_many(images)).tolist()
        waiting = asyncio.ensure_future(batcher.predict(images[0]))
        await asyncio.sleep(0)
        assert batcher.predict_now(images) is None, "not past others"
        await waiting
        await batcher.close()
        assert batcher.predict_now(images) is None

    asyncio.run(ask())


def test_a_slow_model_never_holds_the_loop() -> None:
    def slow(pixels: np.ndarray) -> np.ndarray:
        time.sleep(0.01)
        return tags(pixels)

    async def ask() -> None:
        batcher = Batcher(slow)
        for _ in range(5):
            await batcher.predict(image(1))
        assert batcher.predict_now([image(1)]) is None
        await batcher.close()

    asyncio.run(ask())
