"""What the benchmarks of serving ask, and the models that they ask it of: the example's, a slow and a large one."""

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from runtime.config.schema import ModelConfig
from runtime.data.encoding import Encoded
from runtime.models.bundle import Bundle, load_bundle, save_bundle
from runtime.models.tabular import build_model
from runtime.serving.arrow import encode_table
from tests.serving_example import example_row

ARROW = {"content-type": "application/vnd.apache.arrow.stream"}
NUM_ROWS = 1024
MODEL_DELAY_MS = 2.0
LARGE_HIDDEN = (512, 256)
SLOW_CONFIG = ModelConfig(
    name="slow",
    class_path="runtime.pipeline.slow_model:SlowMLP",
    arguments={"delay_ms": MODEL_DELAY_MS},
    allowed_modules=["runtime.models", "runtime.pipeline.slow_model"],
)
LARGE_CONFIG = ModelConfig(name="large", class_path="runtime.models.mlp:MLP", arguments={"hidden": list(LARGE_HIDDEN)})


def example_rows() -> list[dict[str, Any]]:
    return [example_row(seed) for seed in range(NUM_ROWS)]


def save_slow_bundle(bundle_dir: Path, slow_dir: Path) -> None:
    """The same weights, in a net that holds every call back."""
    _save_like(bundle_dir, slow_dir, SLOW_CONFIG, has_weights=True)


def save_large_bundle(bundle_dir: Path, large_dir: Path) -> None:
    """A net whose own work is more than what stands around it."""
    _save_like(bundle_dir, large_dir, LARGE_CONFIG)


def _save_like(bundle_dir: Path, new_dir: Path, config: ModelConfig, *, has_weights: bool = False) -> None:
    """A bundle of the same contract, encoding and profile, of another net; `has_weights` gives it the same weights."""
    bundle = load_bundle(bundle_dir)
    model = build_model(config, bundle.columns, bundle.encoding)
    if has_weights:
        model.load_state_dict(bundle.model.state_dict())
    else:
        for name in ("center", "scale"):
            getattr(model, name).copy_(getattr(bundle.model, name))
    save_bundle(
        new_dir,
        model=model,
        model_config=config,
        columns=bundle.columns,
        encoding=bundle.encoding,
        profile=bundle.profile,
        lineage={"data_version": "example@0"},
    )


def encode_stream(rows: list[dict[str, Any]]) -> bytes:
    return encode_table(pa.Table.from_pylist(rows))


def model_rows_per_s(directory: Path, duration_s: float) -> dict[str, tuple[float, float]]:
    """Of each bundle, the bare model in a loop, no server and no log: on rows that are encoded already, and on a table
    as requests bring it.
    """
    torch.set_num_threads(1)
    table = pa.Table.from_pylist(example_rows())
    found = {}
    for name in ("bundle", "large"):
        bundle = load_bundle(directory / name)
        encode = functools.partial(bundle.encoding.encode_request_table, table, bundle.columns)
        encoded = encode()
        as_it_is = _calls_per_s(functools.partial(_same, encoded), bundle, duration_s / 4)
        of_table = _calls_per_s(encode, bundle, duration_s / 4)
        found[name] = (as_it_is * NUM_ROWS, of_table * NUM_ROWS)
    return found


def _same(encoded: Encoded) -> Encoded:
    return encoded


def _calls_per_s(encode: Callable[[], Encoded], bundle: Bundle, duration_s: float) -> float:
    num_calls, started = 0, time.perf_counter()
    while time.perf_counter() < started + duration_s:
        encoded = encode()
        bundle.model.predict(encoded.numeric, encoded.categorical)
        num_calls += 1
    return num_calls / (time.perf_counter() - started)
