"""Logistic regression: one weight for each numeric input and for each category."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Linear(nn.Module):
    is_traceable = True

    def __init__(self, num_numeric: int, cardinalities: Sequence[int]) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))
        self.numeric_weight = nn.Parameter(torch.zeros(num_numeric))
        category_weights = [nn.Embedding(cardinality, 1) for cardinality in cardinalities]
        for weights in category_weights:
            nn.init.zeros_(weights.weight)
        self.category_weights = nn.ModuleList(category_weights)

    def forward(self, numeric: Tensor, categorical: Tensor) -> Tensor:
        logits = self.bias + numeric @ self.numeric_weight
        for index, weights in enumerate(self.category_weights):
            logits = logits + weights(categorical[:, index]).squeeze(1)
        return logits
