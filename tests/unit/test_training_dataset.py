from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from deltalake import write_deltalake

from runtime.config.schema import ColumnConfig, DataConfig, TrainingConfig
from runtime.core.errors import ConfigError, ContractError, NotFoundError
from runtime.store.records import DataVersion
from runtime.training.dataset import Split, hold_out, load_split
from tests import training_example as example

DATA = DataConfig(name="example", builder="runtime.data.tabular:build", sources={}, columns=example.COLUMNS)
WINDOWS = TrainingConfig(train_until="2013-01-11", validation_since="2013-01-11", validation_until="2013-01-15")


def write(directory: Path, table: pa.Table) -> DataVersion:
    write_deltalake(str(directory), table)
    return DataVersion(
        table="example",
        version=0,
        uri=str(directory),
        num_rows=table.num_rows,
        fingerprint="",
        lineage={},
        created_at="",
    )


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> DataVersion:
    return write(tmp_path_factory.mktemp("warehouse") / "example", example.example_table(480))


def content(split: Split) -> list[Any]:
    arrays = (split.train.numeric, split.train.categorical, split.train_labels, split.validation.numeric)
    return [np.nan_to_num(array).tolist() for array in arrays]


def test_windows_are_half_open_in_utc(version: DataVersion) -> None:
    split = load_split(version, DATA, WINDOWS)
    assert len(split.train) == len(split.train_labels) == 240
    assert len(split.validation) == 96
    assert split.profile.counts.rows == 240


def test_the_order_of_rows_in_files_does_not_matter(version: DataVersion, tmp_path: Path) -> None:
    table = example.example_table(480)
    shuffled = table.take(np.random.default_rng(0).permutation(480))
    other = write(tmp_path / "example", shuffled)
    for config in (WINDOWS, TrainingConfig()):
        assert content(load_split(version, DATA, config)) == content(load_split(other, DATA, config))


def test_rows_without_label_are_left_out(tmp_path: Path) -> None:
    table = example.example_table(480)
    labels = table.column("late").to_pylist()
    labels[:10] = [None] * 10
    table = table.set_column(table.column_names.index("late"), "late", pa.array(labels, pa.int8()))
    assert len(load_split(write(tmp_path / "example", table), DATA, WINDOWS).train) == 230


def test_the_encoding_knows_the_training_rows_only(tmp_path: Path) -> None:
    table = example.example_table(480)
    carriers = ["A"] * 240 + ["Z"] * 240
    table = table.set_column(table.column_names.index("carrier"), "carrier", pa.array(carriers))
    split = load_split(write(tmp_path / "example", table), DATA, WINDOWS)
    assert split.encoding.vocabularies == {"carrier": ("A",)}
    assert set(split.validation.categorical[:, 0].tolist()) == {1}


def test_whole_groups_are_held_out_and_stay_so() -> None:
    table = example.example_table(24 * 200)
    held_out = hold_out(table, example.COLUMNS, 0.2)
    days = np.array(table.column("day").to_pylist())
    assert not set(days[held_out]) & set(days[~held_out])
    assert 0.12 < held_out.mean() < 0.28
    first_half = hold_out(table.slice(0, 2400), example.COLUMNS, 0.2)
    np.testing.assert_array_equal(first_half, held_out[:2400])
    assert not (held_out & ~hold_out(table, example.COLUMNS, 0.5)).any(), "a larger fraction holds out more of them"


def test_without_group_the_key_decides_and_without_key_the_position() -> None:
    table = example.example_table(2000)
    keyed = {name: column for name, column in example.COLUMNS.items() if column.role != "group"}
    bare = {name: column for name, column in keyed.items() if column.role != "key"}
    by_key = hold_out(table, keyed, 0.2)
    order = np.random.default_rng(1).permutation(2000)
    np.testing.assert_array_equal(hold_out(table.take(order), keyed, 0.2), by_key[order])
    assert 0.15 < by_key.mean() < 0.25
    assert 0.15 < hold_out(table, bare, 0.2).mean() < 0.25


def test_a_group_that_is_null_is_one_group() -> None:
    table = example.example_table(100)
    table = table.set_column(1, "day", pa.nulls(100, pa.string()))
    assert len(set(hold_out(table, example.COLUMNS, 0.5).tolist())) == 1


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"validation_since": "2013-01-10"}, "overlaps the training window"),
        ({"train_until": None}, "overlaps the training window"),
        ({"train_since": "2013-01-12"}, "train_since must be before training.train_until"),
        ({"validation_until": "2013-01-11T00:00:00Z"}, "validation_since must be before"),
    ],
)
def test_windows_that_make_no_sense_are_refused(version: DataVersion, changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        load_split(version, DATA, replace(WINDOWS, **changes))


def test_windows_need_a_time_column(version: DataVersion) -> None:
    columns = {name: column for name, column in example.COLUMNS.items() if column.role != "time"}
    with pytest.raises(ConfigError, match="need a column with role time, which table 'example' lacks"):
        load_split(version, replace(DATA, columns=columns), WINDOWS)


def test_a_part_without_rows_or_with_one_class_is_named(version: DataVersion, tmp_path: Path) -> None:
    late = replace(WINDOWS, validation_since="2014-01-01", validation_until=None)
    with pytest.raises(ContractError, match="the validation rows of example@0 must hold both labels but are no rows"):
        load_split(version, DATA, late)
    table = example.example_table(480)
    ones = table.set_column(table.column_names.index("late"), "late", pa.array([1] * 480, pa.int8()))
    with pytest.raises(ContractError, match=r"the training rows of example@0 .* are 240 rows, all with label 1"):
        load_split(write(tmp_path / "example", ones), DATA, WINDOWS)


def test_a_contract_that_names_another_column_is_refused(version: DataVersion) -> None:
    columns = example.COLUMNS | {"altitude": ColumnConfig(type="number")}
    with pytest.raises(NotFoundError, match="altitude"):
        load_split(version, replace(DATA, columns=columns), WINDOWS)
