"""A rollout whose controller dies before each of its writes in turn, on whatever database."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import event

from runtime.rollout.controller import Controller
from runtime.store.rollouts import RolloutStore
from tests.rollout_world import ENDPOINT, Site, example_plan

PLAN = example_plan(
    steps_percent=[50, 100],
    min_s=0,
    min_requests=1,
    rollback_window_s=0,
    settle_s=0,
    promote_on="no_harm",
    metrics={"errors": {"kind": "errors", "margin": 0.5}},
)


class Killed(BaseException):
    """Stands for SIGKILL: nothing of teal catches it, and the open transaction is gone."""


def check_every_kill(new_place: Callable[[], Path | str]) -> None:
    """Whichever write is the last, the next controller comes to the same end, nothing happened twice, and the audit
    chain is whole."""
    whole, total = _run(new_place(), None)
    assert total > 20
    ends = {kill_at: _run(new_place(), kill_at)[0] for kill_at in range(1, total + 1)}
    assert {kill_at: end for kill_at, end in ends.items() if end != whole} == {}


def _run(place: Path | str, kill_at: int | None) -> tuple[Any, int]:
    """How it ended, and how many writes the first controller made."""
    site = Site(place, PLAN)
    site.start()
    writes = 0

    def count(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        nonlocal writes
        if statement.startswith(("INSERT", "UPDATE")):
            writes += 1
            if writes == kill_at:
                raise Killed

    store = RolloutStore(site.store.url)
    event.listen(store._engine, "before_cursor_execute", count)
    first = Controller(store, site.world, holder="first")
    try:
        while site.rollout.is_active:
            site.world.pass_time()
            for _ in range(3):
                first.advance()
    except Killed:
        site.world.at += 20  # until the dead one's lease has run out
        site.run(60, until="Succeeded")
    store.close()
    assert site.store.verify_audit().faults == []
    ticks = site.store.analysis_ticks(site.rollout.id)
    assert [tick.number for tick in ticks] == list(range(1, len(ticks) + 1))
    moves = [row.action for row in site.store.transitions() if row.action in ("shift", "promote", "rollback")]
    state = site.store.endpoint(ENDPOINT)
    site.store.close()
    return (site.rollout.phase, state.primary, state.share, state.generation, moves), writes
