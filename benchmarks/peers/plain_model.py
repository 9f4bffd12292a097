"""The model of a bundle in nothing but torch, for servers that know nothing of teal: the same weights, the same scores.

It spares its server what teal does for every row: no contract is checked, no type, no range.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

MISSING, OTHER, FIRST = 0, 1, 2


class PlainModel(nn.Module):
    """An MLP over standardised numbers and embedded categories, read from `model.safetensors` and `bundle.json`."""

    def __init__(self, bundle_dir: Path) -> None:
        super().__init__()
        encoding = json.loads((bundle_dir / "bundle.json").read_text())["encoding"]
        self.numeric: list[str] = encoding["numeric"]
        self.categorical: list[str] = encoding["categorical"]
        self.indices = {
            name: {value: index + FIRST for index, value in enumerate(values)} | {None: MISSING}
            for name, values in encoding["vocabularies"].items()
        }
        weights = load_file(bundle_dir / "model.safetensors")
        self.center, self.scale = weights["center"], weights["scale"]
        self.indicators = weights["indicator_columns"]
        self.embeddings = [weights[f"net.embeddings.{index}.weight"] for index in range(len(self.categorical))]
        layers = sorted(
            int(name.split(".")[2]) for name in weights if name.startswith("net.layers.") and "bias" in name
        )
        self.layers = [(weights[f"net.layers.{index}.weight"], weights[f"net.layers.{index}.bias"]) for index in layers]

    def encode_rows(self, rows: Sequence[Mapping[str, Any]]) -> tuple[Tensor, Tensor]:
        """[rows, numbers] with NaN where missing, and [rows, categories] as indices."""
        numeric = [
            [math.nan if (value := row[name]) is None else float(value) for name in self.numeric] for row in rows
        ]
        categorical = [[self.indices[name].get(row[name], OTHER) for name in self.categorical] for row in rows]
        return torch.tensor(numeric, dtype=torch.float32), torch.tensor(categorical, dtype=torch.int64)

    def encode_columns(self, columns: Mapping[str, Sequence[Any]]) -> tuple[Tensor, Tensor]:
        """The same from a list of values for each column, whole columns at once."""
        numeric = [[math.nan if value is None else value for value in columns[name]] for name in self.numeric]
        categorical = [[self.indices[name].get(value, OTHER) for value in columns[name]] for name in self.categorical]
        return torch.tensor(numeric, dtype=torch.float32).t(), torch.tensor(categorical, dtype=torch.int64).t()

    def forward(self, numeric: Tensor, categorical: Tensor) -> Tensor:
        missing = torch.isnan(numeric)
        parts = [((numeric - self.center) / self.scale).masked_fill(missing, 0.0)]
        parts.append(missing.index_select(1, self.indicators).float())
        parts += [table[categorical[:, index]] for index, table in enumerate(self.embeddings)]
        values = torch.cat(parts, dim=1)
        for weight, bias in self.layers[:-1]:
            values = torch.relu(torch.addmm(bias, values, weight.t()))
        weight, bias = self.layers[-1]
        return torch.addmm(bias, values, weight.t()).squeeze(1)

    def scores(self, numeric: Tensor, categorical: Tensor) -> list[float]:
        with torch.inference_mode():
            scores: list[float] = torch.sigmoid(self(numeric, categorical).double()).tolist()
        return scores

    def answer(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {"predictions": [{"score": score} for score in self.scores(*self.encode_rows(rows))]}


def load_plain_model(bundle_dir: str) -> PlainModel:
    torch.set_num_threads(1)
    return PlainModel(Path(bundle_dir)).eval()
