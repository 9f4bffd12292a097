import asyncio
import threading
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import orjson
import pytest

from runtime.data.encoding import Encoded
from runtime.models.bundle import load_bundle
from runtime.serving.batching import MicroBatcher
from runtime.serving.codec import RequestFault
from tests.serving_caller import Caller
from tests.serving_example import example_row, save_example_bundle

PREDICT = "/v1/models/example:predict"


def rows(*values: float) -> Encoded:
    return Encoded(
        numeric=np.array(values, dtype=np.float32)[:, None], categorical=np.zeros((len(values), 0), np.int64)
    )


class Model:
    """Answers each number with its double once it is let go, and remembers what it was asked together."""

    def __init__(self) -> None:
        self.batches: list[list[float]] = []
        self.is_entered = threading.Event()
        self.go = threading.Event()

    def __call__(self, encoded: Encoded) -> npt.NDArray[np.float64]:
        self.batches.append(encoded.numeric[:, 0].tolist())
        self.is_entered.set()
        assert self.go.wait(10)
        if (encoded.numeric < 0).any():
            raise RequestFault(500, "model_failed", "negative")
        return encoded.numeric[:, 0].astype(np.float64) * 2


async def until_busy(model: Model) -> None:
    await asyncio.to_thread(model.is_entered.wait, 10)


def test_what_comes_while_the_model_is_busy_is_asked_together() -> None:
    model = Model()

    async def ask() -> list[list[float]]:
        batcher = MicroBatcher(model, max_batch_rows=4, max_waiting_rows=100)
        first = asyncio.create_task(batcher.score(rows(1)))
        await until_busy(model)
        later = [
            asyncio.create_task(batcher.score(rows(*values))) for values in ((2, 3), (4,), (5, 6), (7, 8, 9, 10, 11))
        ]
        await asyncio.sleep(0)
        model.go.set()
        return [answer.tolist() for answer in await asyncio.gather(first, *later)]

    assert asyncio.run(ask()) == [[2], [4, 6], [8], [10, 12], [14, 16, 18, 20, 22]]
    assert model.batches == [[1], [2, 3, 4], [5, 6], [7, 8, 9, 10, 11]]


def test_one_that_the_model_fails_on_fails_alone() -> None:
    model = Model()

    async def ask() -> list[object]:
        batcher = MicroBatcher(model, max_batch_rows=8, max_waiting_rows=100)
        first = asyncio.create_task(batcher.score(rows(1)))
        await until_busy(model)
        later = [asyncio.create_task(batcher.score(rows(value))) for value in (2, -3, 4)]
        await asyncio.sleep(0)
        model.go.set()
        return await asyncio.gather(first, *later, return_exceptions=True)

    answers = asyncio.run(ask())
    assert isinstance(answers[2], RequestFault)
    assert [a.tolist() for a in answers if isinstance(a, np.ndarray)] == [[2], [4], [8]]


def test_a_passed_deadline_is_told_and_never_computed() -> None:
    model = Model()

    async def ask() -> tuple[object, dict[str, int]]:
        batcher = MicroBatcher(model)
        first = asyncio.create_task(batcher.score(rows(1)))
        await until_busy(model)
        late = asyncio.create_task(batcher.score(rows(2), deadline_ns=time.time_ns() - 1))
        await asyncio.sleep(0)
        model.go.set()
        await first
        answer = (await asyncio.gather(late, return_exceptions=True))[0]
        return answer, batcher.status()

    answer, status = asyncio.run(ask())
    assert isinstance(answer, RequestFault)
    assert answer.status == 408
    assert model.batches == [[1]]
    assert (status["expired"], status["waiting_rows"]) == (1, 0)


def test_a_full_queue_refuses_at_once() -> None:
    model = Model()

    async def ask() -> tuple[RequestFault, int]:
        batcher = MicroBatcher(model, max_batch_rows=2, max_waiting_rows=3)
        first = asyncio.create_task(batcher.score(rows(1)))
        await until_busy(model)
        waiting = asyncio.create_task(batcher.score(rows(2, 3)))
        await asyncio.sleep(0)
        with pytest.raises(RequestFault) as caught:
            await batcher.score(rows(4, 5))
        model.go.set()
        await asyncio.gather(first, waiting)
        return caught.value, batcher.num_refused

    fault, refused = asyncio.run(ask())
    assert (fault.status, fault.retry_after_s, refused) == (429, 1, 1)


def test_whoever_has_gone_is_not_asked_for() -> None:
    model = Model()

    async def ask() -> None:
        batcher = MicroBatcher(model)
        first = asyncio.create_task(batcher.score(rows(1)))
        await until_busy(model)
        gone = asyncio.create_task(batcher.score(rows(2)))
        await asyncio.sleep(0)
        gone.cancel()
        model.go.set()
        await first
        await asyncio.gather(gone, return_exceptions=True)
        await batcher.score(rows(3))

    asyncio.run(ask())
    assert model.batches == [[1], [3]]


def test_bounds_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="max_batch_rows"):
        MicroBatcher(Model(), max_batch_rows=10, max_waiting_rows=5)


def test_callers_of_a_slow_model_share_its_calls_and_get_their_own_bits(tmp_path: Path) -> None:
    """Through the whole service: what waits while the first is computed is one call, whoever asked."""
    save_example_bundle(tmp_path / "bundle")
    bundle = load_bundle(tmp_path / "bundle")
    bodies = [orjson.dumps({"instances": [example_row(index)]}) for index in range(33)]
    plain = Caller(bundle, tmp_path / "plain")
    expected = [orjson.loads(plain.ask(PREDICT, body).body)["predictions"] for body in bodies]
    caller = Caller(bundle, tmp_path / "batched", max_batch_rows=32)
    caller.service.warm_up()
    predict = caller.service.scorer.predictor.predict
    sizes: list[int] = []
    is_entered, go = threading.Event(), threading.Event()

    def slow(numeric: npt.NDArray[np.float32], categorical: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        sizes.append(len(numeric))
        is_entered.set()
        assert go.wait(10)
        return predict(numeric, categorical)

    caller.service.scorer.predictor.predict = slow  # type: ignore[method-assign]

    async def ask() -> list[object]:
        first = asyncio.create_task(caller.answer(PREDICT, bodies[0]))
        await asyncio.to_thread(is_entered.wait, 10)
        later = [asyncio.create_task(caller.answer(PREDICT, body)) for body in bodies[1:]]
        await asyncio.sleep(0)
        go.set()
        return [orjson.loads(answer.body)["predictions"] for answer in await asyncio.gather(first, *later)]

    assert asyncio.run(ask()) == expected
    assert sizes == [1, 32]
