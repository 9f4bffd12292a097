"""A rollout whose processes die before each of their writes in turn, and before each commit, on whatever database.

What a kill after a write leaves is what one before the next write of its transaction does, or one before its commit.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import event

from runtime.rollout import commands, traffic
from runtime.rollout.aliases import CONSUMER, TOPIC
from runtime.rollout.controller import Controller
from runtime.rollout.phases import Event
from runtime.store.rollouts import RolloutStore
from tests.rollout_world import ENDPOINT, Site, example_plan

BRISK: dict[str, Any] = dict(
    steps_percent=[50, 100],
    min_s=0,
    min_requests=1,
    rollback_window_s=0,
    settle_s=0,
    promote_on="no_harm",
    metrics={"errors": {"kind": "errors", "margin": 0.5}},
)
SHADOW = {"fraction": 0.5, "min_requests": 10}
COUNTED = {
    "compared": 20,
    "failed": 0,
    "dropped": 0,
    "rows": 20,
    "difference_sum": 0.1,
    "difference_squares": 0.001,
} | {
    "largest_difference": 0.01,
    "difference_counts": [0] * 10,
    "latency": [0] * 98,
}

Moment = Literal["write", "commit"]


class Killed(BaseException):
    """Stands for SIGKILL: nothing of teal catches it, and the open transaction is gone."""


class Scenario:
    """One way that a rollout goes. `meddle` is what people do to it, again and again until it is done: each with a key,
    as somebody does whose command was cut off."""

    def __init__(
        self,
        end: str,
        *,
        changes: dict[str, Any] | None = None,
        meddle: Callable[[RolloutStore, str], None] = lambda _store, _phase: None,
        error_rate: float = 0.0,
        traffic_per_s: int = 1000,
    ) -> None:
        self.end, self.meddle, self.error_rate, self.traffic_per_s = end, meddle, error_rate, traffic_per_s
        self.plan = example_plan(**BRISK | (changes or {}))


def _shadow(store: RolloutStore, phase: str) -> None:
    if phase == "Shadowing":
        store.record_shadow(store.rollouts(ENDPOINT)[-1].id, "r1", COUNTED, at=1.0)


def _command(phases: tuple[str, ...], wanted: Event) -> Callable[[RolloutStore, str], None]:
    def act(store: RolloutStore, phase: str) -> None:
        if phase in phases:
            commands.apply_event(store, store.rollouts(ENDPOINT)[-1].id, wanted, by="bob", key=f"{wanted}")

    return act


def _approve(store: RolloutStore, phase: str) -> None:
    if phase == "AwaitingApproval" and store.approvals(kind="rollout")[-1].state == "pending":
        commands.decide_approval(store, store.rollouts(ENDPOINT)[-1].id, by="bob", is_approved=True)


def _roll_back(store: RolloutStore, phase: str) -> None:
    if phase == "Progressing" and store.endpoint(ENDPOINT).share:
        traffic.rollback(store, ENDPOINT, actor="bob")


def _shift(store: RolloutStore, phase: str) -> None:
    if phase == "Progressing" and store.endpoint(ENDPOINT).share == 5000:
        traffic.shift(store, ENDPOINT, 3000, actor="bob", force=True)


SCENARIOS: dict[str, Scenario] = {
    "promoted": Scenario("Succeeded"),
    "promoted after a shadow": Scenario("Succeeded", changes={"shadow": SHADOW}, meddle=_shadow),
    "promoted after an approval": Scenario("Succeeded", changes={"approvals": 1}, meddle=_approve),
    "promoted by hand": Scenario("Succeeded", changes={"min_s": 1e6}, meddle=_command(("Progressing",), Event.PROMOTE)),
    "rolled back by the analysis": Scenario("RolledBack", error_rate=0.3, changes={"min_s": 30, "tick_s": 2}),
    "rolled back at its deadline": Scenario(
        "RolledBack", changes={"max_s": 1, "tick_s": 2, "min_requests": 10**9, "on_deadline": "abort"}
    ),
    "aborted": Scenario("Aborted", changes={"min_s": 1e6}, meddle=_command(("Progressing",), Event.ABORT)),
    "rolled back by hand": Scenario("Aborted", changes={"min_s": 1e6}, meddle=_roll_back),
    "shifted by hand": Scenario("Aborted", changes={"min_s": 1e6}, meddle=_shift),
}


def check_every_kill(new_place: Callable[[], Path | str], scenario: Scenario, moment: Moment = "write") -> None:
    """Whichever write is the last, what comes after the restart is what comes without a kill: nothing happened twice,
    and the audit chain is whole."""
    whole, total = _run(new_place(), scenario, None, moment)
    assert whole[0] == scenario.end
    assert total > 3
    ends = {kill_at: _run(new_place(), scenario, kill_at, moment)[0] for kill_at in range(1, total + 1)}
    assert {kill_at: end for kill_at, end in ends.items() if end != whole} == {}


def _run(place: Path | str, scenario: Scenario, kill_at: int | None, moment: Moment) -> tuple[Any, int]:
    """How it ended, and how many such moments there were until it did or the kill came."""
    site = Site(place, scenario.plan, requests_per_s=scenario.traffic_per_s)
    site.world.error_rate["green"] = scenario.error_rate
    site.store.subscribe(CONSUMER, [TOPIC])
    moments, has_written = 0, False

    def count() -> None:
        nonlocal moments
        moments += 1
        if moments == kill_at:
            raise Killed

    def see_statement(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        nonlocal has_written
        if statement.startswith(("INSERT", "UPDATE", "DELETE")):
            has_written = True
            if moment == "write":
                count()

    def see_commit(_connection: Any) -> None:
        nonlocal has_written
        if has_written and moment == "commit":
            count()
        has_written = False

    doomed = RolloutStore(site.store.url)
    event.listen(doomed._engine, "before_cursor_execute", see_statement)
    event.listen(doomed._engine, "commit", see_commit)
    try:
        _live(site, doomed, scenario, Controller(doomed, site.world, holder="first"))
    except Killed:
        doomed.close()
        site.world.at += 20  # until the dead one's lease has run out
        _live(site, site.store, scenario, site.new_controller("second"))
    else:
        doomed.close()
    assert site.store.verify_audit().faults == []
    ticks = site.store.analysis_ticks(site.rollout.id)
    assert [tick.number for tick in ticks] == list(range(1, len(ticks) + 1))
    moves = [row.action for row in site.store.transitions() if row.action in ("shift", "promote", "rollback")]
    state, champion = site.store.endpoint(ENDPOINT), site.store.alias(ENDPOINT, "champion")
    end = (site.rollout.phase, state.primary, state.share, state.generation, champion and champion.version)
    told, number = site.store.backlog(), len(site.store.rollouts())
    site.store.close()
    return (*end, moves, told, number), moments


def _live(site: Site, store: RolloutStore, scenario: Scenario, controller: Controller) -> None:
    """From the start, which is given again after a kill, to the end."""
    commands.start(store, ENDPOINT, scenario.plan, "test", author="ann", key="start")
    for _ in range(100):
        site.world.pass_time()
        for _ in range(3):
            scenario.meddle(store, site.rollout.phase)
            controller.advance()
        if not site.rollout.is_active:
            return
    raise AssertionError(f"still {site.rollout.phase}: {site.rollout.reason}")
