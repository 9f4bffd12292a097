"""What every control store promises about leases, approvals, the outbox, answers, replicas and transactions."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest

from runtime.core.errors import ConflictError, NotFoundError, RefusedError, UsageError
from runtime.store.control import ControlStore
from runtime.store.database import NUM_ATTEMPTS, VictimError, retried
from runtime.store.records import Answer, EdgeLimits, Lease, Replica
from tests.store_conformance import StoreTests, all_at_once, deploy_two, model


def replica(name: str) -> Replica:
    return Replica(
        replica_id=name,
        endpoint="flights",
        slot="blue",
        host="127.0.0.1",
        port=30001,
        grpc_port=None,
        bundle_sha256="a" * 64,
        state="ready",
        at=100.0,
    )


class ControlConformance(StoreTests):
    # -- the audit chain's end -------------------------------------------------------------------------------------

    def test_the_end_of_the_chain_is_read_from_a_time_on(self, store: ControlStore) -> None:
        deploy_two(store)
        rows = store.transitions()
        assert len(rows) > 1
        assert store.recent_transitions("") == rows
        assert store.recent_transitions(rows[-1].at) == rows[-1:]
        assert store.recent_transitions("9") == []

    # -- leases ----------------------------------------------------------------------------------------------------

    def test_a_lease_has_one_holder_and_its_token_rises_with_each_new_one(self, store: ControlStore) -> None:
        first = store.acquire_lease("controller", "a", 10, now=100)
        assert first == Lease(name="controller", holder="a", token=1, expires_at=110)
        assert store.acquire_lease("controller", "b", 10, now=109) is None
        assert store.acquire_lease("controller", "a", 10, now=109) == replace(first, expires_at=119)
        second = store.acquire_lease("controller", "b", 10, now=119)
        assert second is not None
        assert (second.token, store.lease("controller")) == (2, second)
        assert store.renew_lease(first, 10, now=120) is None
        assert not store.release_lease(first)
        assert store.renew_lease(second, 10, now=200) == replace(second, expires_at=210)
        assert store.release_lease(second)
        again = store.acquire_lease("controller", "b", 10, now=201)
        assert again is not None
        assert again.token == 3

    def test_of_many_who_want_a_lease_one_gets_it(self, store: ControlStore) -> None:
        wanting = [partial(store.acquire_lease, "c", f"holder-{name}", 10, now=100) for name in range(8)]
        assert sum(lease is not None for lease in all_at_once(wanting)) == 1

    def test_a_controller_that_was_replaced_writes_nothing(self, store: ControlStore) -> None:
        deploy_two(store)
        old = store.acquire_lease("controller", "old", 10, now=100)
        assert old is not None
        store.set_share("flights", 100, actor="controller", fencing=old.fencing)
        new = store.acquire_lease("controller", "new", 10, now=200)
        assert new is not None
        changes: list[Callable[[], object]] = [
            partial(store.set_share, "flights", 200, actor="controller", fencing=old.fencing),
            partial(store.promote, "flights", actor="controller", fencing=old.fencing),
            partial(store.assign_slot, "flights", None, model(3), actor="controller", fencing=old.fencing),
            partial(store.set_share, "flights", 200, actor="controller", fencing=("never taken", 1)),
        ]
        for change in changes:
            with pytest.raises(ConflictError, match="is void: it is held by"):
                change()
        state = store.set_share("flights", 300, actor="controller", fencing=new.fencing)
        assert (state.share, state.generation, len(store.transitions())) == (300, 4, 4)
        assert store.transitions()[-1].detail["lease"] == ["controller", 2]

    def test_a_lease_without_time_is_refused(self, store: ControlStore) -> None:
        with pytest.raises(UsageError, match="must be above 0 but got 0"):
            store.acquire_lease("controller", "a", 0, now=1)

    # -- approvals -------------------------------------------------------------------------------------------------

    def test_nobody_approves_what_they_asked_for(self, store: ControlStore) -> None:
        deploy_two(store)
        ask = partial(store.request_approval, "rollout", "r-1", author="ann", endpoint="flights")
        asked = ask(detail={"plan": "abc"})
        assert ask(detail={"plan": "abc"}) == asked
        with pytest.raises(ConflictError, match="waits for approval already"):
            ask(detail={"plan": "another"})
        for by in ("ann", " Ann "):
            with pytest.raises(RefusedError, match="ann asked for rollout 'r-1'; somebody else"):
                store.approve(asked.id, by=by)
        assert store.approvals(state="pending") == [asked]
        approved = store.approve(asked.id, by="bob", reason="seen the plan")
        assert (approved.state, approved.decided_by, approved.reason) == ("approved", "bob", "seen the plan")
        assert store.approve(asked.id, by="bob") == approved
        with pytest.raises(ConflictError, match="was approved by bob"):
            store.deny(asked.id, by="eve")
        assert store.approvals(kind="rollout", subject="r-1", state="approved") == [approved]
        rows = store.transitions()[2:]
        assert [(row.actor, row.action, row.generation) for row in rows] == [
            ("ann", "request_approval", 2),
            ("bob", "approve", 2),
        ]
        assert rows[0].detail["detail"] == {"plan": "abc"}
        assert store.verify_audit().faults == []

    def test_a_denied_request_may_be_made_again_and_the_author_may_withdraw(self, store: ControlStore) -> None:
        first = store.request_approval("deploy", "flights:3", author="ann")
        assert store.deny(first.id, by="ann").state == "denied"
        second = store.request_approval("deploy", "flights:3", author="ann")
        assert second.id != first.id
        with pytest.raises(NotFoundError, match="no approval 'nothing'"):
            store.approve("nothing", by="bob")
        with pytest.raises(UsageError, match="needs a name"):
            store.approve(second.id, by=" ")
        with pytest.raises(UsageError, match="needs an author"):
            store.request_approval("deploy", "flights:4", author="")

    def test_of_many_who_decide_one_does(self, store: ControlStore) -> None:
        asked = store.request_approval("deploy", "flights:3", author="ann")
        deciding = [partial(store.approve, asked.id, by=f"p{number}") for number in range(6)]
        results = all_at_once(deciding)
        assert sum(not isinstance(result, Exception) for result in results) == 1
        assert [row.action for row in store.transitions()] == ["request_approval", "approve"]

    # -- outbox ----------------------------------------------------------------------------------------------------

    def test_a_change_and_its_message_stand_or_fall_together(self, store: ControlStore) -> None:
        deploy_two(store)
        assert store.pending("hook", now=1e12) == []
        store.subscribe("hook", ["transition"])
        with pytest.raises(RefusedError):
            store.promote("flights", actor="ann")
        store.set_share("flights", 500, actor="ann")
        (message,) = store.pending("hook", now=1e12)
        assert (message.topic, message.payload["action"], message.payload["sequence"]) == ("transition", "shift", 3)
        assert message.payload["hash"] == store.transitions()[-1].hash

    def test_a_message_comes_again_until_it_is_delivered(self, store: ControlStore) -> None:
        store.subscribe("a", ["news"])
        store.subscribe("b", ["news", "other"])
        store.enqueue("news", {"n": 1}, at=100.0)
        store.enqueue("other", {"n": 2}, at=100.0)
        assert store.backlog() == {"a": 1, "b": 2}
        (mine,) = store.pending("a", now=100.0)
        assert store.pending("a", now=100.0) == [mine]
        store.failed(mine.id, "503", next_at=160.0)
        assert store.pending("a", now=159.0) == []
        (again,) = store.pending("a", now=160.0)
        assert again == replace(mine, num_attempts=1, next_at=160.0, error="503")
        store.delivered(again.id)
        store.delivered(again.id)
        theirs = store.pending("b", now=1e12)
        assert [message.payload["n"] for message in theirs] == [1, 2]
        assert theirs[0].event_id == mine.event_id
        assert [message.topic for message in store.pending("b", now=1e12, limit=1)] == ["news"]

    def test_one_who_subscribes_to_nothing_gets_nothing(self, store: ControlStore) -> None:
        store.subscribe("a", ["news"])
        store.enqueue("news", {}, at=1.0)
        store.subscribe("a", ["other"])
        assert (store.consumers(), store.backlog()) == (["a"], {"a": 1})
        store.subscribe("a", [])
        assert (store.consumers(), store.backlog()) == ([], {})

    # -- answers ---------------------------------------------------------------------------------------------------

    def test_a_repeated_command_gives_its_first_answer(self, store: ControlStore) -> None:
        deploy_two(store)

        def shift() -> dict[str, int]:
            return {"generation": store.set_share("flights", 500, actor="ann").generation}

        request = {"command": "shift", "share": 500}
        assert not store.is_answered("key")
        assert store.idempotent("key", request, shift) == Answer(value={"generation": 3}, is_repeated=False)
        assert store.is_answered("key")
        assert store.idempotent("key", request, shift) == Answer(value={"generation": 3}, is_repeated=True)
        assert store.endpoint("flights").generation == 3
        with pytest.raises(UsageError, match="key 'key' was used for another command"):
            store.idempotent("key", {"command": "shift", "share": 600}, shift)

    def test_a_command_that_failed_left_nothing_and_may_be_repeated(self, store: ControlStore) -> None:
        deploy_two(store)

        def shift_and_fail() -> dict[str, int]:
            store.set_share("flights", 500, actor="ann")
            raise RuntimeError("died here")

        with pytest.raises(RuntimeError, match="died here"):
            store.idempotent("key", {}, shift_and_fail)
        assert (store.endpoint("flights").share, len(store.transitions())) == (0, 2)
        assert not store.is_answered("key")
        assert store.idempotent("key", {}, lambda: {"done": True}).is_repeated is False

    def test_the_same_key_at_the_same_time_acts_once(self, store: ControlStore) -> None:
        deploy_two(store)

        def shift() -> dict[str, int]:
            return {"generation": store.set_share("flights", 500, actor="ann").generation}

        answers = all_at_once([lambda: store.idempotent("key", {"a": 1}, shift)] * 6)
        assert sorted(answer.is_repeated for answer in answers) == [False] + [True] * 5
        assert store.endpoint("flights").generation == 3

    # -- transactions ----------------------------------------------------------------------------------------------

    def test_a_transaction_is_whole_or_nothing_and_reads_what_it_wrote(self, store: ControlStore) -> None:
        before = deploy_two(store)

        def change_and_fail() -> None:
            with store.transaction():
                store.set_share("flights", 100, actor="ann")
                assert store.endpoint("flights").share == 100
                store.record_step("k", "step", {})
                raise RuntimeError

        with pytest.raises(RuntimeError):
            change_and_fail()
        assert (store.endpoint("flights"), store.step_outputs("k")) == (before, None)
        assert store.verify_audit().num_rows == 2

    def test_what_fails_inside_a_transaction_is_undone_alone(self, store: ControlStore) -> None:
        deploy_two(store)

        def change_and_fail() -> None:
            with store.transaction():
                store.set_share("flights", 900, actor="ann")
                raise RuntimeError

        with store.transaction():
            store.set_share("flights", 100, actor="ann")
            with pytest.raises(ConflictError):
                store.set_share("flights", 700, actor="ann", expected_generation=1)
            with pytest.raises(RuntimeError):
                change_and_fail()
            store.record_step("k", "step", {"done": 1})
        assert (store.endpoint("flights").share, store.step_outputs("k")) == (100, {"done": 1})
        assert store.verify_audit().faults == []

    def test_a_transaction_that_the_database_undid_is_repeated(self, store: ControlStore) -> None:
        class Unlucky(ControlStore):
            num_calls = 0

            @retried
            def write(self, num_failures: int) -> int:
                with self._write():
                    self.num_calls += 1
                    if self.num_calls <= num_failures:
                        raise VictimError("deadlock")
                    return self.num_calls

        unlucky = Unlucky(store.url)
        assert unlucky.write(2) == 3
        with pytest.raises(VictimError):
            Unlucky(store.url).write(NUM_ATTEMPTS)
        inside = Unlucky(store.url)
        with pytest.raises(VictimError), inside.transaction():
            inside.write(1)
        assert inside.num_calls == 1

    # -- edges' limits --------------------------------------------------------------------------------------------

    def test_edges_are_told_the_last_limits_of_each_endpoint(self, store: ControlStore) -> None:
        limits = EdgeLimits(
            endpoint="flights",
            max_body_bytes=1,
            max_ongoing_requests=2,
            max_waiting_requests=3,
            answer_timeout_s=0.5,
            may_sleep=True,
        )
        assert store.edge_limits() == []
        store.set_edge_limits([limits, replace(limits, endpoint="a")])
        store.set_edge_limits([replace(limits, may_sleep=False)])
        assert store.edge_limits() == [replace(limits, endpoint="a"), replace(limits, may_sleep=False)]

    # -- replicas --------------------------------------------------------------------------------------------------

    def test_a_replica_is_what_it_last_said_of_itself(self, store: ControlStore) -> None:
        store.register_replica(replica("b"))
        store.register_replica(replace(replica("a"), slot="green", grpc_port=31001))
        store.register_replica(replace(replica("b"), port=30002))
        assert store.replicas("flights") == [
            replace(replica("b"), port=30002),
            replace(replica("a"), slot="green", grpc_port=31001),
        ]
        assert store.replicas("other") == []
        store.register_replica(replace(replica("a"), slot="green", state="draining"))
        assert [found.state for found in store.replicas()] == ["ready", "draining"]
        store.remove_replica("a")
        store.remove_replica("a")
        assert [found.replica_id for found in store.replicas()] == ["b"]

    def test_a_replica_that_beats_no_more_is_forgotten(self, store: ControlStore) -> None:
        store.register_replica(replace(replica("a"), at=200.0))
        store.register_replica(replace(replica("b"), at=100.0))
        assert store.forget_replicas(150.0) == 1
        assert [found.replica_id for found in store.replicas()] == ["a"]
