"""A net together with the preprocessing it was trained with, so that training and serving cannot differ.

It does not know rows, column names or files: arrays in the order of an `Encoding` come in, probabilities go out.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from runtime.config.schema import ColumnConfig, ModelConfig
from runtime.core.errors import ConfigError
from runtime.core.imports import load_object
from runtime.data.encoding import Encoded, Encoding
from runtime.models.predictor import Predictor


class TabularModel(nn.Module):
    """Standardises numbers, fills missing ones with the training mean, marks them, and asks the net.

    `indicator_columns` are the positions of the numeric columns that get a missing indicator.
    """

    center: Tensor
    scale: Tensor
    indicator_columns: Tensor

    def __init__(self, net: nn.Module, *, num_numeric: int, indicator_columns: Sequence[int]) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("center", torch.zeros(num_numeric))
        self.register_buffer("scale", torch.ones(num_numeric))
        self.register_buffer("indicator_columns", torch.tensor(list(indicator_columns), dtype=torch.int64))

    def fit_preprocessing(self, encoded: Encoded) -> None:
        """Take means and standard deviations from these rows, missing values left out."""
        values = encoded.numeric.astype(np.float64)
        present = ~np.isnan(values)
        counts = np.maximum(present.sum(axis=0), 1)
        center = np.where(present, values, 0.0).sum(axis=0) / counts
        variance = np.where(present, (values - center) ** 2, 0.0).sum(axis=0) / counts
        scale = np.sqrt(variance)
        # A constant column has no scale of its own; rounding must not blow its noise up to one.
        scale[scale <= 1e-6 * np.maximum(np.abs(center), 1e-6)] = 1.0
        self.center.copy_(torch.from_numpy(center))
        self.scale.copy_(torch.from_numpy(scale))

    def standardise(self, numeric: Tensor) -> Tensor:
        """[n, F] with NaN where missing to what the net takes, [n, F + indicators] without NaN."""
        missing = torch.isnan(numeric)
        standardised = ((numeric - self.center) / self.scale).masked_fill(missing, 0.0)
        if not len(self.indicator_columns):
            return standardised
        return torch.cat([standardised, missing.index_select(1, self.indicator_columns).to(standardised.dtype)], dim=1)

    def forward(self, numeric: Tensor, categorical: Tensor) -> Tensor:
        """Logits [n] of numeric [n, F] float32 and categorical [n, C] int64."""
        logits: Tensor = self.net(self.standardise(numeric), categorical)
        return logits

    def predict(self, numeric: NDArray[np.float32], categorical: NDArray[np.int64]) -> NDArray[np.float64]:
        """Probabilities of label 1, [n]. The model must be in evaluation mode, which loading a bundle leaves it in.

        A row's answer does not depend on the rows it is asked with (see Predictor).
        """
        return Predictor(self).predict(numeric, categorical)


def build_model(
    model_config: ModelConfig,
    columns: Mapping[str, ColumnConfig],
    encoding: Encoding,
    *,
    allowed_modules: Sequence[str] | None = None,
) -> TabularModel:
    """An untrained model for this contract and encoding, on the CPU.

    Raises ConfigError naming the class if it is not a torch.nn.Module, does not take its arguments, or does not
    answer [n] logits. `allowed_modules` stands in for the configuration's own list.
    """
    class_path = model_config.class_path
    net_class = load_object(class_path, model_config.allowed_modules if allowed_modules is None else allowed_modules)
    if not (isinstance(net_class, type) and issubclass(net_class, nn.Module)):
        raise ConfigError(f"model class {class_path!r} must be a torch.nn.Module but is {net_class!r}")
    if not (encoding.numeric or encoding.categorical):
        raise ConfigError("no column has role feature: a model needs at least one")
    indicators = [index for index, name in enumerate(encoding.numeric) if columns[name].nullable]
    cardinalities = encoding.cardinalities
    num_numeric = len(encoding.numeric) + len(indicators)
    try:
        net = net_class(num_numeric, cardinalities, **model_config.arguments)
    except Exception as error:
        raise ConfigError(
            f"model class {class_path!r} cannot be built with (num_numeric={num_numeric}, "
            f"cardinalities={cardinalities}, arguments {model_config.arguments}): {error}"
        ) from error
    check_net(net, class_path, num_numeric=num_numeric, cardinalities=cardinalities)
    return TabularModel(net, num_numeric=len(encoding.numeric), indicator_columns=indicators).eval()


def check_net(net: nn.Module, class_path: str, *, num_numeric: int, cardinalities: Sequence[int]) -> None:
    """Ask the net for three rows. ConfigError unless it answers three floating point logits."""
    rows = 3
    highest = torch.tensor(cardinalities, dtype=torch.int64) - 1
    try:
        with torch.no_grad():
            answer = net.eval()(torch.zeros(rows, num_numeric), highest.expand(rows, -1))
    except Exception as error:
        raise ConfigError(
            f"model class {class_path!r} fails on {rows} rows of numeric [{rows}, {num_numeric}] float32 and "
            f"categorical [{rows}, {len(cardinalities)}] int64: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(answer, Tensor):
        raise ConfigError(f"model class {class_path!r} must answer a tensor but answers {type(answer).__name__}")
    if tuple(answer.shape) != (rows,) or not answer.is_floating_point():
        raise ConfigError(
            f"model class {class_path!r} must answer floating point logits of shape [n], here [{rows}], "
            f"but answers {answer.dtype} of shape {list(answer.shape)}"
        )
