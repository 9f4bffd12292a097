"""What a replica of one small model sends a monitor under test."""

from typing import Any

import numpy as np

from runtime.data.accumulate import Accumulator
from runtime.data.encoding import Encoded, Encoding
from runtime.data.profile import build_profile
from runtime.telemetry.latency import count_latencies

ENCODING = Encoding(numeric=("wind",), categorical=("carrier",), vocabularies={"carrier": ("AA", "UA")})


def draw(seed: int, num_rows: int, shift: float = 0.0) -> Encoded:
    generator = np.random.default_rng(seed)
    return Encoded(
        numeric=generator.normal(shift, 1, (num_rows, 1)).astype(np.float32),
        categorical=generator.integers(2, 4, (num_rows, 1)),
    )


PROFILE = build_profile(draw(0, 20_000), ENCODING)


def message(
    sequence: int, *, replica: str = "r1", rows: int = 100, shift: float = 0.0, **changes: Any
) -> dict[str, Any]:
    accumulator = Accumulator(PROFILE)
    encoded = draw(sequence + 1, rows, shift)
    accumulator.add(encoded.numeric, encoded.categorical, np.full(rows, 0.25))
    return {
        "endpoint": "flights",
        "slot": "blue",
        "model_version": "flights:1",
        "replica": replica,
        "sequence": sequence,
        "requests": 10,
        "rows": rows,
        "errors": 1,
        "refused": 2,
        "latency_ms_counts": count_latencies([4.0] * 9 + [40.0]),
        "counts": accumulator.take(),
        **changes,
    }
