"""The demo's deliberately bad model: right answers, late. It exists so that something real can be rolled back."""

import time
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from runtime.models.mlp import MLP


class SlowMLP(MLP):
    """An MLP that holds every answer back by `delay_ms`, as a careless feature lookup would."""

    def __init__(self, num_numeric: int, cardinalities: Sequence[int], *, delay_ms: float, **arguments: Any) -> None:
        super().__init__(num_numeric, list(cardinalities), **arguments)
        self.delay_s = delay_ms / 1000

    def forward(self, numeric: Tensor, categorical: Tensor) -> Tensor:
        if not self.training:
            time.sleep(self.delay_s)
        return super().forward(numeric, categorical)
