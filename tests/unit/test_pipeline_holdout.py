"""Which rows decide at the gate: none that either model has learnt from, and in the version that is asked for."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from runtime.config.schema import Config, TrainingConfig
from runtime.core.errors import NotFoundError, RefusedError
from runtime.data.current import current_version, make_current
from runtime.data.delta import table_uri
from runtime.pipeline.holdout import Holdout, find_holdout
from runtime.serving.delta_log import append
from runtime.store.control import ControlStore
from runtime.store.records import DataVersion
from runtime.training.dataset import load_split
from tests.cluster_config import cluster_config
from tests.training_example import COLUMNS, example_table

DAY = 24
TABLE = "example"


@dataclass
class Gate:
    """A table of 20 days, whose version 1 has 10 more."""

    config: Config
    store: ControlStore

    @classmethod
    def at(cls, home: Path) -> "Gate":
        config = cluster_config(home)
        data = replace(config.data, name=TABLE, columns=COLUMNS)
        config = replace(config, data=data, gate=replace(config.gate, min_rows=40))
        store = ControlStore.of(config.paths)
        store.create_schema()
        gate = cls(config, store)
        rows = example_table(30 * DAY)
        uri = table_uri(config.paths.warehouse, TABLE)
        for version, part in enumerate((rows.slice(0, 20 * DAY), rows.slice(20 * DAY))):
            append(uri, part)
            gate.record(version, uri)
        return gate

    def record(self, version: int, uri: str) -> None:
        made = DataVersion(
            table=TABLE, version=version, uri=uri, num_rows=0, fingerprint="", lineage={}, created_at=f"2013-0{version}"
        )
        self.store.record_data_version(made)
        make_current(self.store, made)

    def lineage(self, version: int, **windows: Any) -> dict[str, Any]:
        training = replace(TrainingConfig(), **windows)
        return {"data": {"table": TABLE, "version": version}, "config": {"training": asdict(training)}}

    def find(self, candidate: dict[str, Any], champion: dict[str, Any] | None = None, **gate: Any) -> Holdout:
        config = replace(self.config, gate=replace(self.config.gate, **gate))
        trained = {"candidate": candidate} | ({} if champion is None else {"example:1": champion})
        return find_holdout(config, self.store, trained)

    def trained(self, lineage: dict[str, Any]) -> int:
        """Rows that a training with this lineage really learns from."""
        version = self.store.data_version(TABLE, lineage["data"]["version"])
        split = load_split(version, self.config.data, TrainingConfig(**lineage["config"]["training"]))
        return int(split.train_labels.size)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    gate = Gate.at(tmp_path)
    yield gate
    gate.store.close()


WINDOWS = {"train_until": "2013-01-11", "validation_since": "2013-01-11", "validation_until": "2013-01-21"}


def days(holdout: Holdout) -> set[str]:
    return set(holdout.rows["day"].to_pylist())


def test_without_windows_the_candidates_own_decide(gate: Gate) -> None:
    own = gate.find(gate.lineage(0, **WINDOWS))
    assert (own.version.version, own.name, own.num_left_out) == (0, "example 2013-01-11..2013-01-21", 0)
    assert own.rows.num_rows == 10 * DAY
    hashed = gate.find(gate.lineage(1))
    assert (hashed.version.version, hashed.name) == (1, "example start..end, held out 0.2")
    assert hashed.rows.num_rows == 30 * DAY - gate.trained(gate.lineage(1))


def test_windows_that_are_given_win_over_the_candidates(gate: Gate) -> None:
    config = replace(gate.config, training=replace(gate.config.training, validation_since="2013-01-16"))
    found = find_holdout(config, gate.store, {"candidate": gate.lineage(0, **WINDOWS)})
    assert (found.name, found.rows.num_rows) == ("example 2013-01-16..end", 5 * DAY)


def test_rows_that_the_champion_learnt_from_are_left_out(gate: Gate) -> None:
    champion = gate.lineage(0, **WINDOWS)
    alone = gate.find(gate.lineage(1))
    both = gate.find(gate.lineage(1), champion)
    # The champion saw all of the first ten days, and none of those that came after.
    assert days(both) == {day for day in days(alone) if day >= "2013-01-11"}
    assert both.num_left_out == alone.rows.num_rows - both.rows.num_rows > 0


def test_rows_that_were_not_in_the_champions_data_are_new_to_it(gate: Gate) -> None:
    """Its window has no end, but its data version had."""
    open_ended = {"validation_since": "2013-01-01", "validation_until": "2013-01-02", "train_since": "2013-01-02"}
    found = gate.find(
        gate.lineage(1, train_until="2013-01-19", validation_since="2013-01-19"), gate.lineage(0, **open_ended)
    )
    assert days(found) == {f"2013-01-{day}" for day in range(21, 31)}
    assert found.num_left_out == 2 * DAY


def test_a_named_holdout_leaves_out_what_the_candidate_itself_learnt_from(gate: Gate) -> None:
    found = gate.find(gate.lineage(0, **WINDOWS), holdout_since="2013-01-09", holdout_until="2013-01-15")
    assert days(found) == {f"2013-01-{day}" for day in range(11, 15)}
    assert (found.version.version, found.num_left_out) == (1, 2 * DAY)


def test_too_few_rows_that_are_new_to_both_are_refused_with_the_remedy(gate: Gate) -> None:
    with pytest.raises(RefusedError) as refusal:
        gate.find(gate.lineage(0, **WINDOWS), gate.lineage(1, train_until="2013-01-20", validation_since="2013-01-20"))
    text = str(refusal.value)
    assert (
        "has 240 rows, but example:1 was trained on 216 of them, which leaves 24, fewer than gate.min_rows 40" in text
    )
    assert "gate.holdout_since=MOMENT" in text
    with pytest.raises(NotFoundError, match="no labelled rows of example@1"):
        gate.find(gate.lineage(1), holdout_since="2014-01-01")


def test_a_model_of_another_table_or_without_its_windows_leaves_nothing_out(gate: Gate) -> None:
    candidate = gate.lineage(0, **WINDOWS)
    other = gate.lineage(0) | {"data": {"table": "other", "version": 0}}
    assert gate.find(candidate, other).num_left_out == gate.find(candidate, {}).num_left_out == 0


def test_the_current_version_is_the_one_that_was_asked_for_last(gate: Gate) -> None:
    assert current_version(gate.store, TABLE).version == 1
    make_current(gate.store, gate.store.data_version(TABLE, 0))
    assert current_version(gate.store, TABLE).version == 0
    assert gate.find(gate.lineage(0), holdout_since="2013-01-01", min_rows=1).version.version == 0
    with pytest.raises(NotFoundError, match="no data version 'other'"):
        current_version(gate.store, "other")
