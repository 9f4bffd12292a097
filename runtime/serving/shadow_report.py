"""What the two slots answered differently to the same requests, out of the table that the shadow records."""

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from runtime.core.errors import NotFoundError
from runtime.data.delta import newest_version, read_table
from runtime.serving.shadow import SCHEMA, shadow_uri

NUM_LARGEST = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class LargeDifference:
    prediction_id: str
    row: int
    score: float
    shadow_score: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ShadowReport:
    """One pair of versions. Differences are the shadow's score less the answer's."""

    model_version: str
    shadow_model_version: str
    rows: int
    equal_rows: int
    """To the bit."""
    mean_difference: float
    p50_absolute: float
    p95_absolute: float
    largest: tuple[LargeDifference, ...]
    """The largest first."""


def read_shadow_reports(payload: str, endpoint: str, since: datetime | None = None) -> list[ShadowReport]:
    """One for each pair of versions that was compared since then. NotFoundError if nothing ever was."""
    uri = shadow_uri(payload, endpoint)
    if newest_version(uri) is None:
        raise NotFoundError(
            f"nothing of {endpoint!r} was compared in the shadow yet; serving.shadow_fraction, or a rollout whose plan "
            "has a shadow, starts it"
        )
    table = read_table(uri, None, SCHEMA.names, since, None, "at")
    pairs = table.group_by(["model_version", "shadow_model_version"]).aggregate([]).sort_by("model_version").to_pylist()
    return [_report(table, **pair) for pair in pairs]


def _report(table: pa.Table, model_version: str, shadow_model_version: str) -> ShadowReport:
    of_pair = pc.and_(
        pc.equal(table["model_version"], model_version),
        pc.equal(table["shadow_model_version"], shadow_model_version),
    )
    rows = table.filter(of_pair)
    differences: npt.NDArray[np.float64] = rows["shadow_score"].to_numpy() - rows["score"].to_numpy()
    absolute = np.abs(differences)
    largest = np.argsort(-absolute, kind="stable")[:NUM_LARGEST]
    columns = ["prediction_id", "row", "score", "shadow_score"]
    return ShadowReport(
        model_version=model_version,
        shadow_model_version=shadow_model_version,
        rows=len(differences),
        equal_rows=int((differences == 0).sum()),
        mean_difference=float(differences.mean()),
        p50_absolute=float(np.quantile(absolute, 0.5)),
        p95_absolute=float(np.quantile(absolute, 0.95)),
        largest=tuple(LargeDifference(**row) for row in rows.select(columns).take(largest).to_pylist()),
    )
