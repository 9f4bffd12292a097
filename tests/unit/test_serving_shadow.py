"""A share of the requests asked of the other slot too: compared, recorded, and the first to go under load."""

import asyncio
from pathlib import Path

import orjson
import pytest

from runtime.models.bundle import Bundle, load_bundle
from runtime.serving.delta_log import DeltaLog
from runtime.serving.payload import read_payload
from runtime.serving.shadow import Difference, Send, Shadow, build_differences, shadow_uri
from tests.serving_caller import Caller
from tests.serving_example import example_row, save_example_bundle
from tests.serving_protocols import arrow_stream, as_table, row_json

PREDICT = "/v1/models/example:predict"
TRACE = f"00-{'a' * 32}-{'b' * 16}-01"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Bundle]:
    directory = tmp_path_factory.mktemp("bundles")
    for seed in (0, 1):
        save_example_bundle(directory / str(seed), seed=seed)
    return load_bundle(directory / "0"), load_bundle(directory / "1")


def shadow_of(
    send: Send, directory: Path, *, fraction: float = 1.0, max_ongoing: int = 4
) -> tuple[Shadow, DeltaLog[Difference]]:
    log = DeltaLog[Difference](shadow_uri(str(directory), "example"), build_differences, flush_s=3600)
    return Shadow(send, model_version="m:3", fraction=fraction, log=log, max_ongoing=max_ongoing), log


def test_what_the_other_slot_answers_is_recorded_beside(bundles: tuple[Bundle, Bundle], tmp_path: Path) -> None:
    primary, other = Caller(bundles[0], tmp_path / "a"), Caller(bundles[1], tmp_path / "b")

    traces = []

    async def send(body: bytes, content_type: str, traceparent: str | None) -> tuple[int, bytes]:
        traces.append(traceparent)
        status, _, answer = await other.answer(PREDICT, body, content_type=content_type, x_teal_shadow="1")
        return status, answer

    shadow, log = shadow_of(send, tmp_path)
    primary.service.follow(shadow)
    rows = [example_row(index) for index in range(3)]

    async def ask() -> list[float]:
        answer = await primary.answer(PREDICT, row_json(rows), traceparent=TRACE)
        table = arrow_stream(as_table(rows, bundles[0].columns))
        await primary.answer(PREDICT, table, content_type="application/vnd.apache.arrow.stream")
        await asyncio.gather(*shadow._ongoing)
        return [row["score"] for row in orjson.loads(answer.body)["predictions"]]

    scores = asyncio.run(ask())
    child, none = traces
    assert none is None
    assert child is not None
    assert child != TRACE
    assert child.split("-")[1] == TRACE.split("-")[1]
    expected = [row["score"] for row in orjson.loads(other.ask(PREDICT, row_json(rows)).body)["predictions"]]
    log.close()
    written = read_payload(log.uri)
    assert written.num_rows == 6
    assert sorted(written["score"].to_pylist()) == sorted(scores * 2)
    assert sorted(written["shadow_score"].to_pylist()) == sorted(expected * 2)
    status = primary.service.status()["shadow"]
    assert (status["compared"], status["failed"], status["dropped"]) == (2, 0, 0)
    assert status["largest_difference"] == max(abs(a - b) for a, b in zip(scores, expected, strict=True))
    # Of what the other slot was asked only the last question was anybody's.
    assert other.payload.status()["buffered_rows"] == 3
    assert other.service.take().requests == 1


def test_under_load_it_is_dropped_and_the_answers_are_not(bundles: tuple[Bundle, Bundle], tmp_path: Path) -> None:
    primary = Caller(bundles[0], tmp_path)

    async def ask() -> None:
        release = asyncio.Event()

        async def send(_body: bytes, _content_type: str, _trace: str | None) -> tuple[int, bytes]:
            await release.wait()
            return 503, b"no"

        shadow, _ = shadow_of(send, tmp_path, max_ongoing=2)
        primary.service.follow(shadow)
        answers = [await primary.answer(PREDICT, row_json([example_row(0)])) for _ in range(5)]
        assert [answer.status for answer in answers] == [200] * 5
        assert (shadow.status()["ongoing"], shadow.status()["dropped"]) == (2, 3)
        release.set()
        await asyncio.gather(*shadow._ongoing)
        assert (shadow.status()["compared"], shadow.status()["failed"]) == (0, 2)

    asyncio.run(ask())


def test_only_a_share_is_asked(bundles: tuple[Bundle, Bundle], tmp_path: Path) -> None:
    primary = Caller(bundles[0], tmp_path)
    asked = []

    async def ask(fraction: float) -> int:
        async def send(body: bytes, _content_type: str, _trace: str | None) -> tuple[int, bytes]:
            asked.append(body)
            return 503, b"no"

        shadow, _ = shadow_of(send, tmp_path / str(fraction), fraction=fraction, max_ongoing=1000)
        primary.service.follow(shadow)
        for _ in range(200):
            await primary.answer(PREDICT, row_json([example_row(0)]))
        await asyncio.gather(*shadow._ongoing)
        return int(shadow.status()["failed"])

    assert asyncio.run(ask(0.0)) == 0
    assert 60 < asyncio.run(ask(0.5)) < 140
