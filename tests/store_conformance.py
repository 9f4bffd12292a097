"""What every control store promises about endpoints, whichever database holds it. Run by a subclass with a `url`."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, text

from runtime.core.errors import ConflictError, NotFoundError, RefusedError, UsageError
from runtime.store.audit import find_breaks
from runtime.store.control import ControlStore
from runtime.store.database import _parse_url
from runtime.store.records import DataVersion, EndpointState, GateRecord, Head, ModelVersion


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


def deploy_two(store: ControlStore) -> EndpointState:
    store.assign_slot("flights", None, model(1), actor="ann")
    return store.assign_slot("flights", None, model(2), actor="ann")


@contextmanager
def raw(url: str) -> Iterator[Connection]:
    """A transaction past the store: what somebody with access to the database can do."""
    engine = create_engine(_parse_url(url))
    try:
        with engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()


def all_at_once(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """What each call gave or raised; they start together."""
    barrier = threading.Barrier(len(calls))
    results: list[Any] = [None] * len(calls)

    def run(index: int, call: Callable[[], Any]) -> None:
        barrier.wait()
        try:
            results[index] = call()
        except Exception as error:  # noqa: BLE001  (given to the caller)
            results[index] = error

    threads = [threading.Thread(target=run, args=item) for item in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


class StoreTests:
    """A subclass gives the fixture `url`: an empty database for each test."""

    @pytest.fixture
    def store(self, url: str) -> Iterator[ControlStore]:
        store = ControlStore(url)
        store.create_schema()
        for version in (1, 2, 3):
            store.record_model_version(model(version))
        yield store
        store.close()


class EndpointConformance(StoreTests):
    def test_the_first_model_becomes_primary_and_the_second_the_canary(self, store: ControlStore) -> None:
        first = store.assign_slot("flights", None, model(1), actor="ann")
        assert (first.primary, first.blue.model, first.green.model, first.share) == ("blue", model(1), None, 0)
        second = store.assign_slot("flights", None, model(2), actor="ann")
        assert (second.canary, second.green.model, second.generation) == ("green", model(2), 2)
        assert store.generations() == {"flights": 2}
        assert store.endpoints() == [second]

    def test_many_endpoints_are_read_as_each_by_itself(self, store: ControlStore) -> None:
        deploy_two(store)
        store.set_share("flights", 10_000, actor="ann")
        store.promote("flights", actor="ann")
        store.assign_slot("churn", "green", model(3), actor="ann")
        assert store.endpoints() == [store.endpoint("churn"), store.endpoint("flights")]
        assert [one.name for one in store.endpoints()] == ["churn", "flights"]

    def test_a_share_is_the_canarys_whichever_slot_that_is(self, store: ControlStore) -> None:
        deploy_two(store)
        assert store.set_share("flights", 1000, actor="ann").green_share == 1000
        store.set_share("flights", 10_000, actor="ann")
        promoted = store.promote("flights", actor="ann")
        assert (promoted.primary, promoted.share, promoted.green_share) == ("green", 0, 10_000)
        store.assign_slot("flights", None, model(3), actor="ann")
        shifted = store.set_share("flights", 2500, actor="ann")
        assert (shifted.canary, shifted.green_share, shifted.slot_share("blue")) == ("blue", 7500, 2500)

    def test_a_slot_with_traffic_is_not_deployed_over(self, store: ControlStore) -> None:
        deploy_two(store)
        before = store.set_share("flights", 1000, actor="ann")
        with pytest.raises(RefusedError, match="slot green of 'flights' gets 10 % of the traffic"):
            store.assign_slot("flights", None, model(3), actor="ann")
        assert store.endpoint("flights") == before

    def test_an_empty_slot_gets_no_share(self, store: ControlStore) -> None:
        store.assign_slot("flights", None, model(1), actor="ann")
        with pytest.raises(RefusedError, match="slot green of 'flights' holds no model"):
            store.set_share("flights", 1000, actor="ann")

    @pytest.mark.parametrize("share", [-1, 10_001])
    def test_a_share_outside_is_refused(self, store: ControlStore, share: int) -> None:
        before = deploy_two(store)
        with pytest.raises(UsageError, match=r"within 0..100 %"):
            store.set_share("flights", share, actor="ann")
        assert store.endpoint("flights") == before

    def test_promotion_moves_no_request(self, store: ControlStore) -> None:
        deploy_two(store)
        store.set_share("flights", 9999, actor="ann")
        with pytest.raises(RefusedError, match=r"has 99.99 % of the traffic"):
            store.promote("flights", actor="ann")
        before = store.set_share("flights", 10_000, actor="ann")
        assert store.promote("flights", actor="ann").green_share == before.green_share

    def test_a_change_to_an_older_generation_conflicts_and_says_who_was_first(self, store: ControlStore) -> None:
        seen = deploy_two(store)
        store.set_share("flights", 1000, actor="bob")
        with pytest.raises(ConflictError, match=r"no longer at generation 2: changed by bob \(shift"):
            store.set_share("flights", 5000, actor="ann", expected_generation=seen.generation)
        assert store.endpoint("flights").share == 1000
        assert len(store.transitions()) == 3

    def test_of_many_changes_to_one_generation_exactly_one_is_made(self, store: ControlStore) -> None:
        seen = deploy_two(store)
        for _ in range(3):
            expected = store.endpoint("flights").generation
            shift = partial(store.set_share, "flights", expected_generation=expected)
            results = all_at_once([partial(shift, share, actor=f"p{share}") for share in range(1, 9)])
            won = [result for result in results if isinstance(result, EndpointState)]
            assert len(won) == 1
            assert all(isinstance(result, ConflictError) for result in results if result is not won[0])
            assert store.endpoint("flights") == won[0]
        assert store.endpoint("flights").generation == seen.generation + 3 == len(store.transitions())
        assert find_breaks(store.transitions()) == []

    def test_changes_to_whatever_is_there_all_happen_in_some_order(self, store: ControlStore) -> None:
        deploy_two(store)
        shares = range(100, 900, 100)
        results = all_at_once([partial(store.set_share, "flights", share, actor="ann") for share in shares])
        assert sorted(result.share for result in results) == list(shares)
        rows = store.transitions()[2:]
        assert [row.detail["from"] for row in rows] == [0] + [row.detail["to"] for row in rows[:-1]]
        assert store.verify_audit().faults == []

    def test_a_change_is_read_by_everybody_as_soon_as_it_is_made(self, store: ControlStore, url: str) -> None:
        deploy_two(store)
        other = ControlStore(url)
        for share in (100, 200, 300):
            assert (
                store.set_share("flights", share, actor="ann") == other.endpoint("flights") == store.endpoint("flights")
            )
            assert other.generations() == {"flights": other.endpoint("flights").generation}
        other.close()

    def test_a_reader_never_sees_half_a_change(self, store: ControlStore, url: str) -> None:
        """The share says which model the green slot holds, so a read of two moments would show."""
        deploy_two(store)
        stop, torn = threading.Event(), []

        def read() -> None:
            reader = ControlStore(url)
            while not stop.is_set():
                state = reader.endpoint("flights")
                label = None if state.green.model is None else state.green.model.version
                if state.share and label != 1 + state.share:
                    torn.append(state)
            reader.close()

        thread = threading.Thread(target=read)
        thread.start()
        try:
            for version in (2, 3) * 15:
                with store.transaction():
                    store.set_share("flights", 0, actor="ann")
                    store.assign_slot("flights", "green", model(version), actor="ann")
                    store.set_share("flights", version - 1, actor="ann")
        finally:
            stop.set()
            thread.join(30)
        assert torn == []

    def test_names_that_lead_nowhere_say_what_exists(self, store: ControlStore) -> None:
        deploy_two(store)
        with pytest.raises(NotFoundError, match="no endpoint 'flihgts'; known: flights"):
            store.endpoint("flihgts")
        with pytest.raises(NotFoundError, match="no model version 'flights:9'; its newest version is 3"):
            store.model_version("flights", 9)
        with pytest.raises(NotFoundError, match="no data version 'flights'"):
            store.data_version("flights")

    def test_every_change_is_in_the_chain_and_tampering_shows(self, store: ControlStore, url: str) -> None:
        deploy_two(store)
        store.set_share("flights", 1000, actor="ann", reason="looks good")
        rows = store.transitions()
        assert [row.action for row in rows] == ["assign", "assign", "shift"]
        assert store.verify_audit().faults == []
        assert find_breaks([rows[0], rows[2]]) != []
        assert find_breaks([rows[1], rows[0], rows[2]]) != []
        assert "row 2 was changed" in find_breaks([rows[0], replace(rows[1], actor="eve"), rows[2]])[0]
        with raw(url) as connection:
            connection.execute(text("UPDATE transitions SET actor = 'eve' WHERE sequence = 3"))
        assert store.verify_audit().faults == ["row 3 was changed after it was written"]

    def test_rows_removed_at_the_end_show_against_a_head_noted_elsewhere(self, store: ControlStore, url: str) -> None:
        deploy_two(store)
        store.set_share("flights", 1000, actor="ann")
        head = store.head()
        with raw(url) as connection:
            connection.execute(text("DELETE FROM transitions WHERE sequence = 3"))
            connection.execute(text("UPDATE endpoints SET share = 0, generation = 2"))
        assert find_breaks(store.transitions()) == []
        faults = store.verify_audit(head).faults
        assert "row 3, which the expected end knows, is gone: the chain ends at 2" in faults
        assert store.verify_audit(Head(sequence=2, hash="f" * 64)).faults[-1] == (
            "row 2 is not the one that the expected end knows: the chain was written anew"
        )

    def test_a_state_that_no_row_tells_of_shows(self, store: ControlStore, url: str) -> None:
        deploy_two(store)
        with raw(url) as connection:
            connection.execute(text("UPDATE endpoints SET share = 5000"))
            connection.execute(text("UPDATE slots SET model_version = 3 WHERE slot = 'green'"))
        faults = store.verify_audit().faults
        assert faults[0] == "share of endpoint 'flights' is 5000, but the chain made it 0"
        assert faults[1].startswith("green of endpoint 'flights' is ('flights:3'")

    def test_recording_the_same_version_twice_changes_nothing(self, store: ControlStore) -> None:
        version = DataVersion(
            table="flights", version=0, uri="/t", num_rows=3, fingerprint="f", lineage={"a": 1}, created_at="now"
        )
        store.record_data_version(version)
        store.record_data_version(version)
        assert store.data_versions() == [version]
        assert store.data_version("flights") == version
        store.record_model_version(model(3))
        assert [found.version for found in store.model_versions("flights")] == [1, 2, 3]

    def test_an_alias_points_to_an_existing_version(self, store: ControlStore) -> None:
        assert store.alias("flights", "champion") is None
        store.set_alias("flights", "champion", 2)
        assert store.alias("flights", "champion") == model(2)
        with pytest.raises(NotFoundError):
            store.set_alias("flights", "champion", 9)
        assert store.alias("flights", "champion") == model(2)

    def test_gates_and_steps_are_what_was_recorded(self, store: ControlStore) -> None:
        gate = GateRecord(
            at="now", holdout="h", candidate="c", champion=None, verdict="Passed", report={"n": [1.5, None]}
        )
        store.record_gate(gate)
        store.record_gate(replace(gate, holdout="other"))
        assert store.gates(holdout="h") == [gate]
        assert len(store.gates(candidate="c")) == 2
        assert store.step_outputs("k") is None
        store.record_step("k", "prepare", {"a": 1})
        store.record_step("k", "prepare", {"a": 2})
        assert store.step_outputs("k") == {"a": 2}

    def test_an_edge_acknowledges_all_endpoints_at_once(self, store: ControlStore) -> None:
        store.acknowledge("edge-1", {}, at=90.0)
        assert store.edge_signs() == {}
        store.acknowledge("edge-1", {"flights": 1, "churn": 4}, at=100.0)
        store.acknowledge("edge-1", {"flights": 2, "churn": 4, "new": 1}, at=101.0)
        found = {name: store.acknowledged(name, alive_since=101.0) for name in ("flights", "churn", "new")}
        assert found == {"flights": {"edge-1": 2}, "churn": {"edge-1": 4}, "new": {"edge-1": 1}}

    def test_acknowledgements_of_dead_edges_do_not_count(self, store: ControlStore) -> None:
        deploy_two(store)
        store.acknowledge("edge-1", {"flights": 2}, at=100.0)
        store.acknowledge("edge-2", {"flights": 1}, at=50.0)
        assert store.acknowledged("flights", alive_since=90.0) == {"edge-1": 2}
