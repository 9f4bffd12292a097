"""A model's inputs and outputs as arrays, laid out so that a row's answer has the same bits in any company.

Matrix kernels round differently by the number of rows and by where in memory a row starts, vector units for the rows
left over at the end. MKL promises to ignore alignment if asked to, and a number of rows that is a multiple of
`ROW_MULTIPLE` takes one way through the kernels: inputs are padded up to it (measured in docs/protocols.md).
"""

import logging
import os
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

if TYPE_CHECKING:
    from runtime.models.tabular import TabularModel

ROW_MULTIPLE = 32
MULTIPLES_TRIED = (ROW_MULTIPLE, 64, 128)
COLUMN_ROWS = 64
"""From here on numbers are standardised column by column."""
PROBE_ROWS = 1024
TRACED_RUNS = 3
MAX_DEVIATIONS = 1e6
"""So many standard deviations from the mean no net overflows whose weights are sane."""
PREDICT_ROWS = 65_536
"""Rows of one forward pass: bounds its memory. A multiple of every one tried."""

logger = logging.getLogger(__name__)

# MKL reads it at its first call, so it must stand before any model runs.
os.environ.setdefault("MKL_CBWR", "AUTO")

Scorer = Callable[[Tensor, Tensor], Tensor]


class _Scores(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, numeric: Tensor, categorical: Tensor) -> Tensor:
        return torch.sigmoid(self.net(numeric, categorical).double())


class Predictor:
    """Predicts with the model as it is now: what is trained later does not reach it.

    The preprocessing is numpy's: elementwise float32, bit for bit what `TabularModel.standardise` does, at a third
    of the price for one row.
    """

    def __init__(self, model: "TabularModel") -> None:
        self._center = model.center.detach().cpu().numpy()
        self._scale = model.scale.detach().cpu().numpy()
        self._indicators = model.indicator_columns.cpu().numpy()
        self._num_numeric = len(self._center)
        self._width = self._num_numeric + len(self._indicators)
        self._device = model.center.device
        self._is_cpu = self._device.type == "cpu"
        self._net = model.net
        self._score: Scorer = self._score_eagerly
        self._multiple = ROW_MULTIPLE
        self.is_traced = False

    @classmethod
    def for_serving(cls, model: "TabularModel", cardinalities: Sequence[int]) -> "Predictor":
        """Settled on this machine's row multiple, and compiled where the net's own class says `is_traceable = True`.

        A trace keeps what torch computes and nothing else that `forward` does, so a subclass does not inherit it.
        """
        predictor = cls(model)
        if not predictor.settle(cardinalities):
            logger.warning("answers of this model depend on which rows are asked together, in their last bits at least")
        if predictor._is_cpu and vars(type(model.net)).get("is_traceable", False):
            predictor._trace(cardinalities)
        return predictor

    @property
    def row_multiple(self) -> int:
        return self._multiple

    def predict(self, numeric: NDArray[np.float32], categorical: NDArray[np.int64]) -> NDArray[np.float64]:
        """Probabilities of label 1, [n], of [n, F] values with NaN for missing and [n, C] indices."""
        rows = len(numeric)
        if rows > PREDICT_ROWS:
            starts = range(0, rows, PREDICT_ROWS)
            return np.concatenate(
                [self.predict(numeric[i : i + PREDICT_ROWS], categorical[i : i + PREDICT_ROWS]) for i in starts]
            )
        inputs, indices = self._pad(numeric, categorical)
        with torch.inference_mode():
            if self._is_cpu:
                scores: NDArray[np.float64] = self._score(torch.from_numpy(inputs), torch.from_numpy(indices)).numpy()
            else:
                on_device = (torch.from_numpy(array).to(self._device) for array in (inputs, indices))
                scores = self._score(*on_device).cpu().numpy()
        return scores[:rows]

    def within_bounds(self, numeric: NDArray[np.float32]) -> NDArray[np.float32]:
        """Values no further than MAX_DEVIATIONS from what the model was trained on; NaN stays."""
        reach = MAX_DEVIATIONS * self._scale
        return np.clip(numeric, self._center - reach, self._center + reach).astype(np.float32)

    def settle(self, cardinalities: Sequence[int]) -> bool:
        """Find the smallest row multiple at which company changes no bit of random rows; False if none is."""
        rows = self._random_rows(cardinalities)
        for multiple in MULTIPLES_TRIED:
            self._multiple = multiple
            if self._is_company_harmless(*rows):
                return True
        self._multiple = ROW_MULTIPLE
        return False

    def _score_eagerly(self, numeric: Tensor, categorical: Tensor) -> Tensor:
        return torch.sigmoid(self._net(numeric, categorical).double())

    def _pad(
        self, numeric: NDArray[np.float32], categorical: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        rows = len(numeric)
        padded = -(-rows // self._multiple) * self._multiple
        inputs = np.zeros((padded, self._width), dtype=np.float32)
        standardised = inputs[:rows, : self._num_numeric]
        missing = np.isnan(numeric)
        has_missing = missing.any()
        with np.errstate(over="ignore", invalid="ignore"):
            if rows < COLUMN_ROWS:
                np.subtract(numeric, self._center, out=standardised)
                np.divide(standardised, self._scale, out=standardised)
            else:
                # The same elementwise, a column at a time, since a row is short.
                by_column = np.subtract(numeric.T, self._center[:, None], order="C")
                by_column /= self._scale[:, None]
                standardised[:] = by_column.T
        if has_missing:
            standardised[missing] = 0.0
            inputs[:rows, self._num_numeric :] = missing[:, self._indicators]
        indices = np.zeros((padded, categorical.shape[1]), dtype=np.int64)
        indices[:rows] = categorical
        return inputs, indices

    def _is_company_harmless(self, numeric: NDArray[np.float32], categorical: NDArray[np.int64]) -> bool:
        together = self.predict(numeric, categorical)
        for size in (1, 5, 16, 24, 33, 100, 700):
            for start in range(0, len(numeric) - size, 37):
                part = slice(start, start + size)
                if not np.array_equal(self.predict(numeric[part], categorical[part]), together[part], equal_nan=True):
                    return False
        return True

    def _random_rows(self, cardinalities: Sequence[int]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        random = np.random.default_rng(0)
        values = self._center + self._scale * random.normal(size=(PROBE_ROWS, self._num_numeric))
        values[random.random(values.shape) < 0.05] = np.nan
        indices = random.integers(0, np.asarray(cardinalities, dtype=np.int64), (PROBE_ROWS, len(cardinalities)))
        return values.astype(np.float32), indices

    def _trace(self, cardinalities: Sequence[int]) -> None:
        """Deprecated in torch, but of what it offers nothing else costs less per call for one row."""
        numeric, categorical = self._random_rows(cardinalities)
        expected = self.predict(numeric, categorical)
        eager = self._score
        example = tuple(torch.from_numpy(array) for array in self._pad(numeric[:1], categorical[:1]))
        try:
            with warnings.catch_warnings(), torch.inference_mode():
                warnings.simplefilter("error")
                warnings.simplefilter("ignore", DeprecationWarning)
                trace: Any = torch.jit.trace
                # Its method and not the module: nobody hooks into it, and looking for hooks costs.
                self._score = torch.jit.freeze(trace(_Scores(self._net).eval(), example)).forward
            for _ in range(TRACED_RUNS):  # its executor rewrites the graph in the first runs
                for size in (1, 100, PROBE_ROWS):
                    if not np.array_equal(self.predict(numeric[:size], categorical[:size]), expected[:size], True):
                        raise ValueError("the compiled net answers other bits")
        except Exception as error:  # noqa: BLE001 - whatever the compiler's trouble is, the net itself works
            logger.warning("the net is not compiled: %s", error)
            self._score = eager
        else:
            self.is_traced = True
