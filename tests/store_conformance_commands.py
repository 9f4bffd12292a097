"""What every control store promises for any order of commands: what a model in plain Python says."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from runtime.core.errors import ConflictError, RefusedError, UsageError
from runtime.store import tables
from runtime.store.control import ControlStore
from runtime.store.records import FULL_SHARE, SLOTS, Lease, Slot, other_slot
from tests.store_conformance import StoreTests, model, raw


class Commands(RuleBasedStateMachine):
    """Random commands, stale generations, taken leases and crashes, against a model in plain Python."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url
        self.store = ControlStore(url)

    @initialize()
    def begin(self) -> None:
        self.store.create_schema()
        with raw(self.url) as connection:
            for table in reversed(tables.metadata.sorted_tables):
                connection.execute(table.delete())
        if self.store.witness_path is not None:
            self.store.witness_path.unlink(missing_ok=True)
        for version in (1, 2, 3):
            self.store.record_model_version(model(version))
        self.store.assign_slot("flights", None, model(1), actor="ann")
        self.generation, self.share, self.primary = 1, 0, "blue"
        self.versions: dict[str, int | None] = {"blue": 1, "green": None}
        self.lease: Lease | None = None
        self.void: Lease | None = None

    @property
    def canary(self) -> Slot:
        return other_slot("blue" if self.primary == "blue" else "green")

    @rule(share=st.integers(0, FULL_SHARE))
    def rehearse(self, share: int) -> None:
        """Shows what would be, or fails as it would; the invariants say that nothing is."""
        if share and self.versions[self.canary] is None:
            with pytest.raises(RefusedError):
                self.store.rehearse(lambda: self.store.set_share("flights", share, actor="ann"))
        else:
            would_be = self.store.rehearse(lambda: self.store.set_share("flights", share, actor="ann"))
            assert (would_be.share, would_be.generation) == (share, self.generation + 1)

    @rule(share=st.integers(-5, FULL_SHARE + 5))
    def shift(self, share: int) -> None:
        if not 0 <= share <= FULL_SHARE:
            with pytest.raises(UsageError):
                self.store.set_share("flights", share, actor="ann")
        elif share and self.versions[self.canary] is None:
            with pytest.raises(RefusedError):
                self.store.set_share("flights", share, actor="ann")
        else:
            fencing = None if self.lease is None else self.lease.fencing
            self.store.set_share("flights", share, actor="ann", fencing=fencing)
            self.generation, self.share = self.generation + 1, share

    @rule(version=st.sampled_from([1, 2, 3]))
    def assign(self, version: int) -> None:
        if self.share:
            with pytest.raises(RefusedError):
                self.store.assign_slot("flights", None, model(version), actor="ann")
        else:
            self.store.assign_slot("flights", None, model(version), actor="ann")
            self.generation += 1
            self.versions[self.canary] = version

    @rule()
    def promote(self) -> None:
        if self.share != FULL_SHARE:
            with pytest.raises(RefusedError):
                self.store.promote("flights", actor="ann")
        else:
            self.store.promote("flights", actor="ann")
            self.generation, self.share, self.primary = self.generation + 1, 0, self.canary

    @precondition(lambda self: self.versions[self.canary] is not None)
    @rule()
    def shift_fully(self) -> None:
        self.shift(FULL_SHARE)

    @rule(behind=st.integers(1, 3))
    def change_an_older_generation(self, behind: int) -> None:
        with pytest.raises((ConflictError, RefusedError)):
            self.store.set_share("flights", 1, actor="old", expected_generation=self.generation - behind)

    @rule()
    def crash(self) -> None:
        def change_and_die() -> None:
            with self.store.transaction():
                self.store.set_share("flights", 0, actor="ann")
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            change_and_die()
        self.store.close()
        self.store = ControlStore(self.url)

    @rule()
    def take_the_lease(self) -> None:
        if self.lease is not None:
            assert self.store.release_lease(self.lease)
            self.void = self.lease
        taken = self.store.acquire_lease("controller", f"holder-{self.generation}", 10, now=100)
        assert taken is not None
        assert self.void is None or taken.token > self.void.token
        self.lease = taken

    @precondition(lambda self: self.void is not None)
    @rule()
    def write_with_a_void_token(self) -> None:
        assert self.void is not None
        with pytest.raises(ConflictError):
            self.store.set_share("flights", 0, actor="old", fencing=self.void.fencing)

    @invariant()
    def store_and_model_agree(self) -> None:
        if not hasattr(self, "generation"):
            return
        state = self.store.endpoint("flights")
        assert (state.generation, state.share, state.primary) == (self.generation, self.share, self.primary)
        assert sum(state.slot_share(slot) for slot in SLOTS) == FULL_SHARE
        for slot in SLOTS:
            held = state.slot(slot).model
            assert (None if held is None else held.version) == self.versions[slot]
            assert held is not None or state.slot_share(slot) == 0
        found = self.store.verify_audit()
        assert (found.faults, found.num_rows) == ([], self.generation)

    def teardown(self) -> None:
        self.store.close()


class CommandConformance(StoreTests):
    max_examples = 15

    def test_any_commands_in_any_order_leave_what_the_model_says(self, url: str) -> None:
        bounded = settings(max_examples=self.max_examples, stateful_step_count=14, deadline=None)

        class Machine(Commands):
            def __init__(self) -> None:
                super().__init__(url)

        run_state_machine_as_test(Machine, settings=bounded)
