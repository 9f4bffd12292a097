"""The control store: compare-and-swap, audit chain, what is refused, what survives concurrency."""

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.core.errors import ConflictError, NotFoundError, RefusedError, UnreachableError, UsageError
from runtime.store.audit import find_breaks
from runtime.store.control import ControlStore
from runtime.store.records import DataVersion, EndpointState, ModelVersion


def model(version: int = 1) -> ModelVersion:
    return ModelVersion(
        name="flights",
        version=version,
        run_id=f"run-{version}",
        bundle_uri=f"/bundles/{version}",
        bundle_sha256=f"{version:064d}",
        lineage={"data_version": "flights@0"},
        created_at="2026-01-01T00:00:00+00:00",
    )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ControlStore]:
    store = ControlStore(f"sqlite:///{tmp_path}/control.db")
    store.create_schema()
    for version in (1, 2, 3):
        store.record_model_version(model(version))
    yield store
    store.close()


def deploy_two(store: ControlStore) -> EndpointState:
    store.assign_slot("flights", None, model(1), actor="ann")
    return store.assign_slot("flights", None, model(2), actor="ann")


def test_the_first_model_becomes_primary_and_the_second_the_canary(store: ControlStore) -> None:
    first = store.assign_slot("flights", None, model(1), actor="ann")
    assert (first.primary, first.blue.model, first.green.model, first.share) == ("blue", model(1), None, 0)
    second = store.assign_slot("flights", None, model(2), actor="ann")
    assert (second.canary, second.green.model, second.generation) == ("green", model(2), 2)


def test_a_share_is_the_canarys_whichever_slot_that_is(store: ControlStore) -> None:
    deploy_two(store)
    assert store.set_share("flights", 1000, actor="ann").green_share == 1000
    store.set_share("flights", 10_000, actor="ann")
    promoted = store.promote("flights", actor="ann")
    assert (promoted.primary, promoted.share, promoted.green_share) == ("green", 0, 10_000)
    store.assign_slot("flights", None, model(3), actor="ann")
    shifted = store.set_share("flights", 2500, actor="ann")
    assert (shifted.canary, shifted.green_share, shifted.slot_share("blue")) == ("blue", 7500, 2500)


def test_a_slot_with_traffic_is_not_deployed_over(store: ControlStore) -> None:
    deploy_two(store)
    before = store.set_share("flights", 1000, actor="ann")
    with pytest.raises(RefusedError, match="slot green of 'flights' gets 10 % of the traffic"):
        store.assign_slot("flights", None, model(3), actor="ann")
    assert store.endpoint("flights") == before


def test_an_empty_slot_gets_no_share(store: ControlStore) -> None:
    store.assign_slot("flights", None, model(1), actor="ann")
    with pytest.raises(RefusedError, match="slot green of 'flights' holds no model"):
        store.set_share("flights", 1000, actor="ann")


@pytest.mark.parametrize("share", [-1, 10_001])
def test_a_share_outside_is_refused(store: ControlStore, share: int) -> None:
    before = deploy_two(store)
    with pytest.raises(UsageError, match=r"within 0..100 %"):
        store.set_share("flights", share, actor="ann")
    assert store.endpoint("flights") == before


def test_promotion_moves_no_request(store: ControlStore) -> None:
    deploy_two(store)
    store.set_share("flights", 9999, actor="ann")
    with pytest.raises(RefusedError, match=r"has 99.99 % of the traffic"):
        store.promote("flights", actor="ann")
    before = store.set_share("flights", 10_000, actor="ann")
    assert store.promote("flights", actor="ann").green_share == before.green_share


def test_a_change_to_an_older_generation_conflicts_and_says_who_was_first(store: ControlStore) -> None:
    seen = deploy_two(store)
    store.set_share("flights", 1000, actor="bob")
    with pytest.raises(ConflictError, match=r"no longer at generation 2: changed by bob \(shift"):
        store.set_share("flights", 5000, actor="ann", expected_generation=seen.generation)
    assert store.endpoint("flights").share == 1000
    assert len(store.transitions()) == 3


def test_names_that_lead_nowhere_say_what_exists(store: ControlStore) -> None:
    deploy_two(store)
    with pytest.raises(NotFoundError, match="no endpoint 'flihgts'; known: flights"):
        store.endpoint("flihgts")
    with pytest.raises(NotFoundError, match="no model version 'flights:9'; its newest version is 3"):
        store.model_version("flights", 9)
    with pytest.raises(NotFoundError, match="no data version 'flights'"):
        store.data_version("flights")


def test_every_change_is_in_the_chain_and_tampering_shows(store: ControlStore, tmp_path: Path) -> None:
    deploy_two(store)
    store.set_share("flights", 1000, actor="ann", reason="looks good")
    rows = store.transitions()
    assert [row.action for row in rows] == ["assign", "assign", "shift"]
    assert find_breaks(rows) == []
    assert find_breaks([rows[0], rows[2]]) != []
    assert find_breaks([rows[1], rows[0], rows[2]]) != []
    assert "row 2 was changed" in find_breaks([rows[0], replace(rows[1], actor="eve"), rows[2]])[0]
    with sqlite3.connect(tmp_path / "control.db") as connection:
        connection.execute("UPDATE transitions SET actor = 'eve' WHERE sequence = 3")
    connection.close()
    assert find_breaks(store.transitions()) == ["row 3 was changed after it was written"]


def test_recording_the_same_version_twice_changes_nothing(store: ControlStore) -> None:
    version = DataVersion(
        table="flights", version=0, uri="/t", num_rows=3, fingerprint="f", lineage={"a": 1}, created_at="now"
    )
    store.record_data_version(version)
    store.record_data_version(version)
    assert store.data_versions() == [version]
    assert store.data_version("flights") == version


def test_an_alias_points_to_an_existing_version(store: ControlStore) -> None:
    assert store.alias("flights", "champion") is None
    store.set_alias("flights", "champion", 2)
    assert store.alias("flights", "champion") == model(2)
    with pytest.raises(NotFoundError):
        store.set_alias("flights", "champion", 9)
    assert store.alias("flights", "champion") == model(2)


def test_acknowledgements_of_dead_edges_do_not_count(store: ControlStore) -> None:
    deploy_two(store)
    store.acknowledge("edge-1", {"flights": 2}, at=100.0)
    store.acknowledge("edge-2", {"flights": 1}, at=50.0)
    assert store.acknowledged("flights", alive_since=90.0) == {"edge-1": 2}


def test_a_store_without_schema_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match="run `teal up` first"):
        ControlStore(f"sqlite:///{tmp_path}/none.db").endpoints()


WRITER = """
import sys
from runtime.core.errors import ConflictError
from runtime.store.control import ControlStore
store, done = ControlStore(sys.argv[1]), 0
while done < 20:
    state = store.endpoint("flights")
    try:
        store.set_share("flights", (state.share + 1) % 10_000, actor=sys.argv[2], expected_generation=state.generation)
        done += 1
    except ConflictError:
        continue
"""


def test_concurrent_writers_lose_no_change_and_keep_one_chain(store: ControlStore) -> None:
    deploy_two(store)
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, store.url, f"writer-{index}"]) for index in range(3)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    state = store.endpoint("flights")
    assert (state.share, state.generation) == (60, 62)
    assert find_breaks(store.transitions()) == []


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.sampled_from(["assign", "shift", "full", "rollback", "promote"]), max_size=12), st.integers(0, 10_000)
)
def test_any_commands_keep_the_invariants(
    tmp_path_factory: pytest.TempPathFactory, commands: list[str], share: int
) -> None:
    store = ControlStore(f"sqlite:///{tmp_path_factory.mktemp('store')}/control.db")
    store.create_schema()
    for version in (1, 2):
        store.record_model_version(model(version))
    store.assign_slot("flights", None, model(1), actor="ann")
    generation = store.endpoint("flights").generation
    for command in commands:
        try:
            if command == "assign":
                store.assign_slot("flights", None, model(2), actor="ann")
            elif command == "promote":
                store.promote("flights", actor="ann")
            else:
                wanted = {"shift": share, "full": 10_000, "rollback": 0}[command]
                store.set_share("flights", wanted, actor="ann")
        except RefusedError:
            assert store.endpoint("flights").generation == generation
        state = store.endpoint("flights")
        assert state.slot_share("blue") + state.slot_share("green") == 10_000
        assert state.generation >= generation
        assert all(state.slot(slot).model is not None for slot in ("blue", "green") if state.slot_share(slot) > 0)
        generation = state.generation
    assert find_breaks(store.transitions()) == []
    store.close()
