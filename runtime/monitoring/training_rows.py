"""Counts of the rows that a model version was trained on, by the hour of the week in their time column."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from runtime.core.errors import ContractError, NotFoundError
from runtime.data.contract import contract_from_json, time_name
from runtime.data.counts import (
    Counts,
    Float64s,
    Packed,
    count_indices,
    count_moments,
    count_scores,
    pack_counts,
    unpack_counts,
)
from runtime.data.delta import read_batches
from runtime.data.encoding import Encoding
from runtime.data.profile import Profile
from runtime.models.manifest import Manifest
from runtime.monitoring.training_hours import HOURS_A_WEEK, HourCounts
from runtime.monitoring.windows import EPOCH_WEEKDAY, HOUR_S, week_number


def read_training_hours(manifest: Manifest, profile: Profile) -> HourCounts:
    """The rows of the training window, labelled or not, from the table's version that the bundle was trained on.

    NotFoundError where the table, its version or a time column is missing, ContractError for a manifest of no lineage.
    """
    try:
        data, training = manifest.lineage["data"], manifest.lineage["config"]["training"]
        uri, version = data["uri"], data["version"]
        since, until = training.get("train_since"), training.get("train_until")
    except (KeyError, TypeError, AttributeError) as error:
        raise ContractError(f"the bundle's lineage does not name its training rows: {error!r}") from error
    time_column = time_name(contract_from_json(manifest.contract))
    if time_column is None:
        raise NotFoundError(f"table {data.get('table')!r} has no column with role time")
    encoding = Encoding.from_json(manifest.encoding)
    columns = [*encoding.numeric, *encoding.categorical, time_column]
    sums: list[Packed | None] = [None] * HOURS_A_WEEK
    weeks: list[set[int]] = [set() for _ in range(HOURS_A_WEEK)]
    for rows in read_batches(uri, version, columns, since, until, time_column):
        rows = rows.filter(pc.is_valid(rows.column(time_column)))
        at = rows.column(time_column).cast(pa.timestamp("s", tz="UTC"), safe=False).cast(pa.int64()).to_numpy()
        encoded = encoding.encode_table(rows)
        hours = (at // HOUR_S + EPOCH_WEEKDAY * 24) % HOURS_A_WEEK
        for hour in np.unique(hours).tolist():
            is_here = hours == hour
            counts = count_rows(profile, encoded.numeric[is_here], encoded.categorical[is_here])
            packed = sums[hour]
            sums[hour] = pack_counts(counts if packed is None else counts.merge(unpack_counts(packed)))
            weeks[hour] |= {week_number(start) for start in np.unique(at[is_here] // HOUR_S * HOUR_S).tolist()}
    return HourCounts(packed=tuple(sums), weeks=tuple(frozenset(found) for found in weeks))


def count_rows(
    profile: Profile,
    numeric: npt.NDArray[np.float32],
    categorical: npt.NDArray[np.int64],
    scores: Float64s | None = None,
) -> Counts:
    """Rows in the profile's bins; without scores none are counted."""
    counted = replace(
        Counts.zero(*profile.counts.shape),
        rows=len(numeric),
        numeric=profile.binning.count(numeric),
        moments=count_moments(numeric),
        categorical=count_indices(categorical, profile.cardinalities),
    )
    if scores is None:
        return counted
    score, moments = count_scores(scores)
    return replace(counted, score=score, score_moments=moments)
