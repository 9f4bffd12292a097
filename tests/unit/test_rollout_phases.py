"""The table of phases, and a rollout driven at random: commands, crashes, lost acknowledgements, dying slots."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import Phase as Part
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from runtime.core.errors import RefusedError, TealError
from runtime.rollout import commands, traffic
from runtime.rollout.decisions import RULES
from runtime.rollout.phases import OUTCOMES, TABLE, TERMINAL, Event, Phase, next_phase
from tests.rollout_kills import COUNTED
from tests.rollout_world import ENDPOINT, Site, example_plan


def test_every_rule_has_its_way_in_the_table() -> None:
    for found in RULES:
        for phase in found.phases:
            outcome = Phase.ROLLED_BACK if found.event is Event.DRAINED else None
            assert next_phase(phase, found.event, outcome) in Phase


def test_nothing_leads_out_of_an_end_and_every_other_phase_leads_to_one() -> None:
    assert not {phase for phase, _ in TABLE} & TERMINAL
    reached = set(TERMINAL)
    while more := {phase for (phase, _), to in TABLE.items() if to in reached or phase is Phase.DRAINING} - reached:
        reached |= more
    assert reached | {Phase.DRAINING} == set(Phase)
    assert set(OUTCOMES.values()) == TERMINAL


@pytest.mark.parametrize("phase", [Phase.PENDING, Phase.ROLLING_BACK, Phase.SUCCEEDED])
def test_an_event_out_of_place_is_refused(phase: Phase) -> None:
    with pytest.raises(RefusedError, match=f"a rollout that is {phase} cannot pause"):
        next_phase(phase, Event.PAUSE, None)


class Driven(RuleBasedStateMachine):
    """The same rollout as its users and its machines make it: at random."""

    @initialize(has_shadow=st.booleans())
    def begin(self, has_shadow: bool) -> None:
        self.directory = tempfile.TemporaryDirectory()
        shadow = {"fraction": 1.0, "min_requests": 10} if has_shadow else None
        plan = example_plan(min_s=1, rollback_window_s=1, min_requests=10, shadow=shadow)
        self.site = Site(Path(self.directory.name), plan)
        self.generation = self.site.store.endpoint(ENDPOINT).generation
        self.by_hand = False
        self.site.start()

    def teardown(self) -> None:
        if hasattr(self, "site"):
            assert self.site.store.verify_audit().faults == []
            self.site.store.close()
            self.directory.cleanup()

    @rule(seconds=st.integers(1, 8))
    def time_passes(self, seconds: int) -> None:
        before = (self.site.share, self.site.rollout)
        self.site.run(seconds)
        after = self.site.share
        if after > before[0]:
            assert "green" not in self.site.world.down, "a share went up on a slot that does not answer"
            assert after <= self.site.world.room["green"], "a share went up before there was room"

    @rule()
    def the_controller_is_killed(self) -> None:
        self.site.controller.release()
        self.site.controller = self.site.new_controller(f"life {self.site.world.at}")

    @rule(slot=st.sampled_from(["blue", "green"]))
    def a_slot_dies_or_comes_back(self, slot: str) -> None:
        self.site.world.down ^= {slot}

    @rule(follow=st.booleans())
    def edges_follow_or_not(self, follow: bool) -> None:
        self.site.world.edges_follow = follow

    @rule(source=st.sampled_from(["edge", "replicas"]))
    def a_source_falls_silent_or_speaks(self, source: str) -> None:
        self.site.world.silent ^= {source}

    @rule(share=st.sampled_from([0, 1000, 10_000, 10_000]))
    def replicas_come_or_go(self, share: int) -> None:
        self.site.world.room["green"] = share

    @rule(failed=st.sampled_from([0, 0, 0, 900]))
    def the_shadow_is_counted(self, failed: int) -> None:
        self.site.store.record_shadow(self.site.rollout.id, "r1", COUNTED | {"failed": failed}, at=1.0)

    @rule(rate=st.sampled_from([0.0, 0.05]))
    def the_canary_breaks_or_heals(self, rate: float) -> None:
        self.site.world.error_rate["green"] = rate

    @rule(requests=st.sampled_from([0, 1000]))
    def traffic_stops_or_comes(self, requests: int) -> None:
        self.site.world.requests_per_s = requests

    @rule(event=st.sampled_from([Event.PAUSE, Event.RESUME, Event.PROMOTE, Event.ABORT]))
    def somebody_commands(self, event: Event) -> None:
        before = self.site.rollout
        try:
            commands.apply_event(self.site.store, before.id, event, by="bob")
        except RefusedError:
            assert self.site.rollout == before
        else:
            self.by_hand |= event is Event.PROMOTE

    @rule(share=st.integers(0, 3000))
    def somebody_rolls_back(self, share: int) -> None:
        was_active = self.site.rollout.is_active
        try:
            traffic.rollback(self.site.store, ENDPOINT, share, actor="bob")
        except TealError:
            return
        if was_active:
            assert self.site.rollout.phase == "Aborted"

    @invariant()
    def the_state_is_legal(self) -> None:
        state = self.site.store.endpoint(ENDPOINT)
        assert state.generation >= self.generation
        self.generation = state.generation
        assert state.slot_share("blue") + state.slot_share("green") == 10_000
        rollout = self.site.rollout
        if rollout.phase in ("Shadowing", "RollingBack", "RolledBack", "Failed") or rollout.changed_how == "abort":
            assert state.share == 0
        if state.primary == "green" and not self.by_hand:
            moves = [row.detail["reason"] for row in self.site.store.transitions() if row.action == "rollout passed"]
            assert len(moves) == 2, "promoted though a step had not passed"


TestDriven: Any = Driven.TestCase
TestDriven.settings = settings(
    max_examples=10,
    stateful_step_count=20,
    deadline=None,
    derandomize=True,
    phases=[Part.generate],  # shrinking runs it hundreds of times
    suppress_health_check=list(HealthCheck),
)
