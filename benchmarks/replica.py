"""What one replica's part of a request costs, in process: no server, no edge, no Ray, one thread.

Everything is on that a replica has on: contract check, drift counts, payload log. `model_loop` is the bare model, asked
in a loop with rows that are encoded already. Steps are timed by themselves, again and again, and so find their data in
the caches; in a request they follow one another, and cost up to twice as much.

Micro-batching is asked with a model that takes 2 ms for a call, by many callers at once.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import orjson  # noqa: E402
import pyarrow as pa  # noqa: E402
import torch  # noqa: E402

from benchmarks.example_models import NUM_ROWS, encode_stream, example_rows, save_slow_bundle  # noqa: E402
from benchmarks.result import Figure, report  # noqa: E402
from runtime.core.ids import new_id  # noqa: E402
from runtime.data.accumulate import Accumulator  # noqa: E402
from runtime.models.bundle import Bundle, load_bundle  # noqa: E402
from runtime.models.predictor import Predictor  # noqa: E402
from runtime.serving import arrow, codec  # noqa: E402
from runtime.serving.delta_log import Appender  # noqa: E402
from runtime.serving.payload import Answer, PayloadTable  # noqa: E402
from tests.serving_caller import Caller  # noqa: E402
from tests.serving_example import example_model_version  # noqa: E402

PREDICT = "/v1/models/example:predict"
LOGGED_REQUESTS = 200
CALLERS = 64


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="shorter: for a look, not for a record")
    parser.add_argument("--json", type=Path, help="write the document here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    duration_s = 0.5 if arguments.quick else 3.0
    with tempfile.TemporaryDirectory(prefix="re-") as temporary:
        directory = Path(temporary)
        example_model_version(directory / "bundle")
        bundle = load_bundle(directory / "bundle")
        steps = {name: microseconds(step, duration_s / 10) for name, step in steps_of(bundle)}
        steps |= log_steps(bundle, directory)
        whole = asyncio.run(cost_of_requests(bundle, directory, duration_s))
        whole["model_loop"] = steps["model_loop"]
        batching = asyncio.run(measure_batching(directory, duration_s))
    for name, cost in (steps | whole).items():
        print(f"{name:24} {cost:10.1f} us", file=sys.stderr)
    figures = [
        *(Figure(name=f"{name}_us", value=cost, unit="us", target=None, op="<=") for name, cost in whole.items()),
        figure("arrow_of_model_loop", whole["model_loop"] / whole["arrow_1024"]),
        figure("json_of_model_loop", whole["model_loop"] / whole["json_1024"]),
        figure("micro_batch_gain", batching["batched_per_s"] / batching["plain_per_s"], 4.0),
        figure("micro_batch_same_bits", batching["same_bits"], 1.0),
    ]
    return report("replica", figures, {"steps_us": steps, "requests_us": whole, "batching": batching}, arguments.json)


def figure(name: str, value: float, target: float | None = None) -> Figure:
    return Figure(name=name, value=value, unit="ratio", target=target, op=">=")


def microseconds(call: Callable[[], object], duration_s: float) -> float:
    """The least mean of several runs: what the step costs, and not what else the machine did."""
    call()
    started = time.perf_counter()
    call()
    num_calls = max(3, int(duration_s / 5 / max(time.perf_counter() - started, 1e-7)))
    means = []
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(num_calls):
            call()
        means.append((time.perf_counter() - started) / num_calls)
    return min(means) * 1e6


def steps_of(bundle: Bundle) -> Iterator[tuple[str, Callable[[], object]]]:
    """Each step that a request of many rows takes on the event loop."""
    rows = example_rows()
    stream, document = encode_stream(rows), orjson.dumps({"instances": rows})
    table = arrow.parse_table(stream, max_rows=NUM_ROWS)
    instances = codec.parse_instances(document, None, max_rows=NUM_ROWS)
    encoding, columns = bundle.encoding, bundle.columns
    encoded = encoding.encode_request_table(table, columns)
    predictor = Predictor.for_serving(bundle.model, encoding.cardinalities)
    scores = bundle.model.predict(encoded.numeric, encoded.categorical)
    accumulator = Accumulator(bundle.profile)
    prediction_id = new_id()
    yield "arrow_parse", lambda: arrow.parse_table(stream, max_rows=NUM_ROWS)
    yield "arrow_encode", lambda: encoding.encode_request_table(table, columns)
    yield "arrow_answer", lambda: arrow.encode_scores(prediction_id, "m:1", scores)
    yield "json_parse", lambda: codec.parse_instances(document, None, max_rows=NUM_ROWS)
    yield "json_encode", lambda: encoding.encode_listed(instances, columns)
    yield "json_native", lambda: encoding.encode_document(document, columns, max_rows=NUM_ROWS)
    yield "json_answer", lambda: codec.encode_predictions(prediction_id, "m:1", scores)
    yield "predict", lambda: predictor.predict(encoded.numeric, encoded.categorical)
    yield "count", lambda: accumulator.add(encoded.numeric, encoded.categorical, scores)
    yield "model_loop", lambda: bundle.model.predict(encoded.numeric, encoded.categorical)


def log_steps(bundle: Bundle, directory: Path) -> dict[str, float]:
    """Microseconds a request of what the log's own thread does: columns of many answers, and one commit of them."""
    random = np.random.default_rng(0)
    rows = arrow.parse_table(encode_stream(example_rows()), max_rows=NUM_ROWS)
    answers = []
    for _ in range(LOGGED_REQUESTS):
        different = [
            random.normal(size=NUM_ROWS) if pa.types.is_float64(field.type) else rows.column(field.name)
            for field in rows.schema
        ]
        answers.append(
            Answer(
                prediction_id=new_id(),
                at_ns=time.time_ns(),
                started_ns=time.time_ns(),
                generation=1,
                request_id=new_id(),
                rows=pa.table(different, names=rows.column_names),
                scores=random.random(NUM_ROWS),
                latency_ms=1.0,
            )
        )
    log = PayloadTable(bundle.columns, slot="blue", model_name="m", model_version=3, data_version="d")
    appender = Appender(str(directory / "log"))
    appender.append(log.build(answers[:1]))
    return {
        "log_build": microseconds(lambda: log.build(answers), 0.5) / LOGGED_REQUESTS,
        "log_write": microseconds(lambda: appender.append(log.build(answers)), 0.5) / LOGGED_REQUESTS,
    }


async def cost_of_requests(bundle: Bundle, directory: Path, duration_s: float) -> dict[str, float]:
    """Median microseconds of CPU that a request takes of the event loop's thread."""
    caller = Caller(bundle, directory / "logs", max_rows=NUM_ROWS, max_body=1 << 24)
    caller.service.warm_up()
    rows = example_rows()
    asked = {
        "arrow_1024": (encode_stream(rows), arrow.CONTENT_TYPE.decode()),
        "json_1024": (orjson.dumps({"instances": rows}), "application/json"),
        "json_1": (orjson.dumps({"instances": rows[:1]}), "application/json"),
        "arrow_1": (encode_stream(rows[:1]), arrow.CONTENT_TYPE.decode()),
    }
    found = {}
    for name, (body, content_type) in asked.items():
        costs: list[float] = []
        ends_at = time.perf_counter() + duration_s
        while time.perf_counter() < ends_at:
            started = time.thread_time()
            answered = await caller.answer(PREDICT, body, content_type=content_type)
            costs.append(time.thread_time() - started)
            if answered.status != 200:
                raise RuntimeError(f"{name} was answered {answered}")
        found[name] = statistics.median(costs) * 1e6
    return found


async def measure_batching(directory: Path, duration_s: float) -> dict[str, float]:
    """Requests per second of CALLERS who each ask one row again and again, and whether their scores are the same."""
    save_slow_bundle(directory / "bundle", directory / "slow")
    bundle = load_bundle(directory / "slow", allowed_modules=["runtime.models", "runtime.pipeline.slow_model"])
    bodies = [orjson.dumps({"instances": [row]}) for row in example_rows()[:CALLERS]]
    found: dict[str, float] = {}
    scores: dict[str, list[float]] = {}
    for name, max_batch_rows in (("plain", 0), ("batched", CALLERS)):
        caller = Caller(bundle, directory / name, max_batch_rows=max_batch_rows)
        caller.service.warm_up()
        ends_at = time.perf_counter() + duration_s

        async def ask(body: bytes, caller: Caller = caller, ends_at: float = ends_at) -> tuple[int, float]:
            num_answers, score = 0, 0.0
            while time.perf_counter() < ends_at:
                score = orjson.loads((await caller.answer(PREDICT, body)).body)["predictions"][0]["score"]
                num_answers += 1
                await asyncio.sleep(0)
            return num_answers, score

        answers = await asyncio.gather(*map(ask, bodies))
        found[f"{name}_per_s"] = sum(number for number, _ in answers) / duration_s
        scores[name] = [score for _, score in answers]
    found["same_bits"] = float(scores["plain"] == scores["batched"])
    return found


if __name__ == "__main__":
    sys.exit(main())
