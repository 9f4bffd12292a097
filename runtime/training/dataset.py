"""Training and validation rows of one data version, as arrays that every trial shares."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from runtime.config.schema import ColumnConfig, DataConfig, TrainingConfig
from runtime.core.errors import ConfigError, ContractError
from runtime.data.contract import feature_names, group_name, key_name, label_name, time_name
from runtime.data.delta import parse_moment, read_table
from runtime.data.encoding import Encoded, Encoding
from runtime.data.profile import Profile, build_profile
from runtime.store.records import DataVersion


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Split:
    """Rows with a label. The encoding and the profile are those of the training rows alone."""

    columns: dict[str, ColumnConfig]
    encoding: Encoding
    profile: Profile
    train: Encoded
    train_labels: NDArray[np.float32]
    validation: Encoded
    validation_labels: NDArray[np.float32]


def load_split(data_version: DataVersion, data_config: DataConfig, training_config: TrainingConfig) -> Split:
    """Read both parts of a data version.

    With a validation time, the parts are the two time windows, which must not overlap. Without one, whole groups (else
    keys, else rows) of the training window are held out by a hash of their value, so that the same ones are held out
    whatever the seed and whatever else is in the table.
    Raises ConfigError for windows that make no sense, ContractError for a part without rows or with one class only.
    """
    columns = data_config.columns
    time_column = time_name(columns)
    windows = _windows(training_config)
    if time_column is None and any(value is not None for window in windows.values() for value in window):
        raise ConfigError(f"training windows need a column with role time, which table {data_version.table!r} lacks")
    wanted = [*feature_names(columns), label_name(columns)]
    wanted += [name for name in (time_column, key_name(columns), group_name(columns)) if name is not None]

    def read(since: str | None, until: str | None) -> pa.Table:
        table = read_table(
            data_version.uri,
            data_version.version,
            columns=wanted,
            since=since,
            until=until,
            time_column=time_column,
        )
        return table.filter(pc.is_valid(table.column(label_name(columns))))

    if "validation" in windows:
        train, validation = read(*windows["train"]), read(*windows["validation"])
    else:
        table = read(*windows["train"])
        held_out = hold_out(table, columns, training_config.validation_fraction)
        train, validation = table.filter(pa.array(~held_out)), table.filter(pa.array(held_out))
    # Row order decides the weights; files may be compacted, so the order comes from the rows.
    order = [(name, "ascending") for name in (time_column, key_name(columns)) if name is not None]
    if order:
        train, validation = train.sort_by(order), validation.sort_by(order)
    return build_split(train, validation, columns, source=data_version.label)


def build_split(train: pa.Table, validation: pa.Table, columns: Mapping[str, ColumnConfig], *, source: str) -> Split:
    """Encode two tables of labelled rows. ContractError, naming `source`, if either lacks rows or a class."""
    labels = {}
    for part, table in (("training", train), ("validation", validation)):
        values = table.column(label_name(columns)).to_numpy().astype(np.float32)
        if len(np.unique(values)) < 2:
            found = f"{len(values)} rows, all with label {values[0]:g}" if len(values) else "no rows"
            raise ContractError(f"the {part} rows of {source} must hold both labels but are {found}; move its window")
        labels[part] = values
    encoding = Encoding.fit(train, columns)
    encoded = encoding.encode_table(train)
    return Split(
        columns=dict(columns),
        encoding=encoding,
        profile=build_profile(encoded, encoding),
        train=encoded,
        train_labels=labels["training"],
        validation=encoding.encode_table(validation),
        validation_labels=labels["validation"],
    )


def hold_out(table: pa.Table, columns: Mapping[str, ColumnConfig], fraction: float) -> NDArray[np.bool_]:
    """Mask of the rows whose group (else key, else position) hashes below `fraction`."""
    name = group_name(columns) or key_name(columns)
    if name is None:
        values: list[Any] = list(range(table.num_rows))
        codes = np.arange(table.num_rows)
    else:
        encoded = table.column(name).combine_chunks().dictionary_encode()
        values = encoded.dictionary.to_pylist()
        codes = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False)  # the last position is that of None
    chosen = np.fromiter((_position(value) < fraction for value in [*values, None]), dtype=np.bool_)
    return np.asarray(chosen[codes], dtype=np.bool_)


def trained_rows(table: pa.Table, columns: Mapping[str, ColumnConfig], config: TrainingConfig) -> NDArray[np.bool_]:
    """Mask of the rows that a training with these windows learns from, where they are in its data version."""
    windows = _windows(config)
    mask = np.ones(table.num_rows, dtype=np.bool_)
    time_column = time_name(columns)
    if time_column is not None:
        start, end = _moments("train", *windows["train"])
        moments = table.column(time_column)
        # Compared as integers: the window's open ends lie outside what a timestamp in nanoseconds can hold.
        at = pc.fill_null(moments.cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()), 0).to_numpy()
        mask &= (at >= _microseconds(start)) & (at < _microseconds(end))
    if "validation" not in windows:
        mask &= ~hold_out(table, columns, config.validation_fraction)
    return mask


def _microseconds(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def _position(value: Any) -> float:
    """Where a value falls in [0, 1), the same in every process and version."""
    return int.from_bytes(hashlib.blake2b(str(value).encode(), digest_size=8).digest()) / 2**64


def _windows(config: TrainingConfig) -> dict[str, tuple[str | None, str | None]]:
    windows = {"train": (config.train_since, config.train_until)}
    if config.validation_since is None and config.validation_until is None:
        return windows
    windows["validation"] = (config.validation_since, config.validation_until)
    ends = {name: _moments(name, *window) for name, window in windows.items()}
    (train_since, train_until), (since, until) = ends["train"], ends["validation"]
    if max(train_since, since) < min(train_until, until):
        raise ConfigError(
            f"the validation window {windows['validation']} overlaps the training window {windows['train']}: "
            "set training.train_until to at most training.validation_since"
        )
    return windows


def _moments(name: str, since: str | None, until: str | None) -> tuple[datetime, datetime]:
    start = datetime.min.replace(tzinfo=UTC) if since is None else parse_moment(since)
    end = datetime.max.replace(tzinfo=UTC) if until is None else parse_moment(until)
    if start >= end:
        raise ConfigError(f"training.{name}_since must be before training.{name}_until but got {since!r}, {until!r}")
    return start, end
