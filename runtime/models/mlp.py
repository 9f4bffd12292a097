"""Entity embeddings and a feed-forward net (Guo & Berkhahn 2016, arXiv 1604.06737)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class MLP(nn.Module):
    """Each categorical column gets an embedding as wide as half its cardinality, at most `max_embedding`."""

    is_traceable = True

    def __init__(
        self,
        num_numeric: int,
        cardinalities: Sequence[int],
        *,
        hidden: Sequence[int] = (64, 32),
        dropout: float = 0.0,
        max_embedding: int = 16,
    ) -> None:
        super().__init__()
        if not hidden or min(hidden) < 1:
            raise ValueError(f"hidden must name at least one width of at least 1 but got {list(hidden)}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be within [0, 1) but got {dropout}")
        if max_embedding < 1:
            raise ValueError(f"max_embedding must be at least 1 but got {max_embedding}")
        widths = [min(max_embedding, (cardinality + 1) // 2) for cardinality in cardinalities]
        embeddings = [nn.Embedding(*shape) for shape in zip(cardinalities, widths, strict=True)]
        for embedding in embeddings:
            nn.init.normal_(embedding.weight, std=0.05)
        self.embeddings = nn.ModuleList(embeddings)
        layers: list[nn.Module] = []
        width = num_numeric + sum(widths)
        for next_width in hidden:
            layers += [nn.Linear(width, next_width), nn.ReLU()]
            if dropout:
                layers.append(nn.Dropout(dropout))
            width = next_width
        self.layers = nn.Sequential(*layers, nn.Linear(width, 1))

    def forward(self, numeric: Tensor, categorical: Tensor) -> Tensor:
        embedded = [embedding(categorical[:, index]) for index, embedding in enumerate(self.embeddings)]
        logits: Tensor = self.layers(torch.cat([numeric, *embedded], dim=1))
        return logits.squeeze(1)
