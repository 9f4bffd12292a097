"""A small table with a signal to learn, and a net of a user's own, for tests of models, training and registry."""

import os
import signal
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from runtime.config.schema import ColumnConfig, ModelConfig
from runtime.data.contract import arrow_schema
from runtime.training.dataset import Split, build_split

COLUMNS = {
    "id": ColumnConfig(type="string", role="key"),
    "day": ColumnConfig(type="string", role="group"),
    "at": ColumnConfig(type="timestamp", role="time"),
    "speed": ColumnConfig(type="number"),
    "wind": ColumnConfig(type="number", nullable=True),
    "hour": ColumnConfig(type="integer", minimum=0, maximum=23),
    "carrier": ColumnConfig(type="category"),
    "late": ColumnConfig(type="binary", role="label", nullable=True),
}
START = datetime(2013, 1, 1, tzinfo=UTC)
MLP = ModelConfig(
    name="mlp",
    class_path="runtime.models.mlp:MLP",
    arguments={"hidden": [8], "dropout": 0.1, "max_embedding": 2},
)
LINEAR = ModelConfig(name="linear", class_path="runtime.models.linear:Linear")
OWN_MODULES = ["tests.training_example"]


def example_table(num_rows: int = 400, *, seed: int = 0) -> pa.Table:
    """One row an hour; fast ones in the wind, and those of carrier B, are often late."""
    random = np.random.default_rng(seed)
    speed, wind = random.normal(100, 20, num_rows), random.normal(0, 1, num_rows)
    carrier = random.choice(["A", "B", "C"], num_rows)
    logit = 0.05 * (speed - 100) + wind + 2 * (carrier == "B") - 0.5
    late = random.random(num_rows) < 1 / (1 + np.exp(-logit))
    moments = [START + timedelta(hours=index) for index in range(num_rows)]
    return pa.table(
        {
            "id": [f"r{index:05d}" for index in range(num_rows)],
            "day": [moment.date().isoformat() for moment in moments],
            "at": moments,
            "speed": speed,
            "wind": [None if index % 10 == 3 else float(value) for index, value in enumerate(wind)],
            "hour": [moment.hour for moment in moments],
            "carrier": carrier.tolist(),
            "late": late.astype(np.int8),
        },
        schema=arrow_schema(COLUMNS),
    )


def example_split(num_rows: int = 400) -> Split:
    table = example_table(num_rows)
    half = num_rows // 2
    return build_split(table.slice(0, half), table.slice(half), COLUMNS, source="example@0")


class OwnNet(nn.Module):
    """What a user might bring; `behaviour` names what it does wrong."""

    def __init__(self, num_numeric: int, cardinalities: Sequence[int], *, width: int = 4, behaviour: str = "") -> None:
        super().__init__()
        self.embedding = nn.Embedding(sum(cardinalities), width)
        self.first = nn.Linear(num_numeric, width)
        self.last = nn.Linear(width, 1)
        self.behaviour = behaviour

    def forward(self, numeric: Tensor, categorical: Tensor) -> Any:
        hidden = torch.relu(self.first(numeric)) + self.embedding(categorical[:, 0])
        if self.behaviour == "two dimensions":
            return self.last(hidden)
        if self.behaviour == "integers":
            return self.last(hidden).squeeze(1).long()
        if self.behaviour == "no tensor":
            return [0.0]
        if self.behaviour == "raises":
            raise RuntimeError("no such layer")
        if self.training and self.behaviour == "diverges":
            return self.last(hidden).squeeze(1) * float("nan")
        if self.training and self.behaviour == "raises in training":
            raise RuntimeError("out of memory")
        if self.training and self.behaviour == "dies in training":
            os.kill(os.getpid(), signal.SIGKILL)
        return self.last(hidden).squeeze(1)


class Tied(nn.Module):
    """Two parameters that share their memory."""

    def __init__(self, num_numeric: int, cardinalities: Sequence[int]) -> None:
        super().__init__()
        self.first = nn.Linear(num_numeric, num_numeric)
        self.second = nn.Linear(num_numeric, num_numeric)
        self.second.weight = self.first.weight

    def forward(self, numeric: Tensor, categorical: Tensor) -> Tensor:
        hidden: Tensor = self.second(torch.relu(self.first(numeric)))
        return hidden.sum(dim=1)


class Normalised(nn.Module):
    """Batch normalisation, which cannot train on a batch of one row."""

    def __init__(self, num_numeric: int, cardinalities: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.BatchNorm1d(num_numeric), nn.Linear(num_numeric, 1))

    def forward(self, numeric: Tensor, categorical: Tensor) -> Tensor:
        logits: Tensor = self.layers(numeric)
        return logits.squeeze(1)


class NotANet:
    pass


def own_net(**arguments: Any) -> ModelConfig:
    return ModelConfig(
        name="own",
        class_path="tests.training_example:OwnNet",
        arguments=arguments,
        allowed_modules=OWN_MODULES,
    )
