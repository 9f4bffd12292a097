"""How MLflow loads a bundle: `mlflow.pyfunc.load_model` calls `_load_pyfunc` by this module's name. No pickle."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from runtime.core.errors import ContractError
from runtime.data.contract import ARROW_TYPES, split_valid
from runtime.models.bundle import OWN_MODULES, Bundle, load_bundle

ALLOWED_VARIABLE = "TEAL_ALLOWED_MODULES"
"""Environment variable: packages, separated by commas, whose classes a bundle may name beside teal's own."""


class BundleModel:
    """What MLflow calls `predict` of."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        encoding = bundle.encoding
        self._columns = {name: bundle.columns[name] for name in (*encoding.numeric, *encoding.categorical)}

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> NDArray[np.float64]:
        """Scores [n] of a pandas DataFrame with the contract's feature columns. ContractError if rows break it."""
        missing = [name for name in self._columns if name not in data.columns]
        absent = [name for name in missing if not self._columns[name].nullable]
        if absent:
            raise ContractError(f"columns {absent} are missing; the model needs {list(self._columns)}")
        arrays = {}
        for name, column in self._columns.items():
            arrow_type = ARROW_TYPES[column.type]
            try:
                arrays[name] = (
                    pa.nulls(len(data), arrow_type)
                    if name in missing
                    else pa.Array.from_pandas(data[name], type=arrow_type)
                )
            except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
                raise ContractError(f"column {name!r} must hold {column.type} values: {error}") from error
        table = pa.table(arrays)
        _, violations, _ = split_valid(table, self._columns)
        if violations:
            raise ContractError("; ".join(str(violation) for violation in violations))
        encoded = self._bundle.encoding.encode_table(table)
        return self._bundle.model.predict(encoded.numeric, encoded.categorical)


def _load_pyfunc(path: str) -> BundleModel:
    extra = [name.strip() for name in os.environ.get(ALLOWED_VARIABLE, "").split(",") if name.strip()]
    return BundleModel(load_bundle(Path(path), allowed_modules=(*OWN_MODULES, *extra)))
