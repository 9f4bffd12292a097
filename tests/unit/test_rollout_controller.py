"""The controller by the second: what each kind of canary comes to, what holds it, and who may interfere."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from runtime.core.errors import ConflictError, NotFoundError, RefusedError, UsageError
from runtime.rollout import commands, traffic
from runtime.rollout.phases import Event
from tests.rollout_world import ENDPOINT, Site, example_plan


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def events(site: Site) -> list[str]:
    return [done.what.partition(":")[0] for done in site.log if not done.what.startswith("tick")]


# -- how it ends -------------------------------------------------------------------------------------------------------


def test_a_canary_as_good_as_the_primary_is_promoted_step_by_step(site: Site) -> None:
    site.start()
    ended = site.run(120, until="Succeeded")
    state = site.store.endpoint(ENDPOINT)
    assert (state.primary, state.share, ended.outcome) == ("green", 0, "Succeeded")
    assert events(site) == [
        *(
            "prepare",
            "ready",
            "settled",
            "passed",
            "step",
            "settled",
            "passed",
            "last",
            "settled",
            "promoted",
            "drained",
        )
    ]
    champion = site.store.alias(ENDPOINT, "champion")
    assert champion is not None
    assert champion.version == 2
    assert site.store.verify_audit().faults == []
    shares = {tick.share for tick in site.store.analysis_ticks(ended.id)}
    assert shares == {1000, 5000}


@pytest.mark.parametrize(("kind", "metric"), [("error_rate", "errors"), ("slowdown", "latency"), ("score", "score up")])
def test_a_worse_canary_is_rolled_back_by_what_is_worse(site: Site, kind: str, metric: str) -> None:
    getattr(site.world, kind)["green"] = {"error_rate": 0.03, "slowdown": 2.5, "score": 0.6}[kind]
    site.start()
    ended = site.run(200, until="RolledBack")
    assert f"most so in {metric}" in site.store.transitions()[-3].detail["reason"]
    assert (site.share, site.store.endpoint(ENDPOINT).primary, ended.outcome) == (0, "blue", "RolledBack")


def test_a_canary_that_is_better_is_promoted(site: Site) -> None:
    site.world.error_rate["blue"] = 0.02
    site.start()
    site.run(200, until="Succeeded")


def test_without_proof_enough_requests_pass_where_the_plan_says_so(tmp_path: Path) -> None:
    site = Site(tmp_path, example_plan(promote_on="no_harm", min_requests=50), requests_per_s=100)
    site.start()
    site.run(120, until="Succeeded")


def test_an_undecided_step_ends_as_the_plan_says(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    holding = Site(tmp_path / "a", example_plan(max_s=30), requests_per_s=30)
    holding.start()
    assert "is not decided after 30 s" in holding.run(60, until="Holding").reason
    assert holding.share == 1000
    aborting = Site(tmp_path / "b", example_plan(max_s=30, on_deadline="abort"), requests_per_s=30)
    aborting.start()
    aborting.run(90, until="RolledBack")
    assert aborting.share == 0


# -- what holds it -----------------------------------------------------------------------------------------------------


def test_no_traffic_holds_and_goes_on_when_it_is_back(tmp_path: Path) -> None:
    site = Site(tmp_path, requests_per_s=0)
    site.start()
    assert "no traffic" in site.run(60, until="Holding").reason
    site.run(30)
    assert (site.share, site.store.analysis_ticks(site.rollout.id)) == (1000, [])
    site.world.requests_per_s = 1000
    site.run(120, until="Succeeded")


@pytest.mark.parametrize("source", ["edge", "replicas"])
def test_a_missing_metric_holds_and_what_was_counted_meanwhile_is_not_lost(site: Site, source: str) -> None:
    site.start()
    site.run(4)
    site.world.silent = {source}
    assert "was not counted" in site.run(60, until="Holding").reason
    share = site.share
    site.run(20)
    assert site.share == share
    site.world.silent = set()
    site.run(120, until="Succeeded")


def test_errors_are_seen_while_the_monitor_is_away(site: Site) -> None:
    site.world.silent = {"replicas"}
    site.world.error_rate["green"] = 0.05
    site.start()
    site.run(60, until="RolledBack")


def test_a_dying_primary_holds_and_does_not_roll_back(site: Site) -> None:
    site.start()
    site.run(4)
    site.world.down = {"blue"}
    assert "the primary does not answer" in site.run(10, until="Holding").reason
    assert site.share == 1000
    site.world.down = set()
    site.run(120, until="Succeeded")


def test_no_share_before_the_canary_answers(site: Site) -> None:
    site.world.down = {"green"}
    site.start()
    site.run(20)
    assert (site.rollout.phase, site.share) == ("Preparing", 0)
    site.world.down = set()
    site.run(2)
    assert site.share == 1000


def test_an_edge_that_does_not_follow_holds_every_further_step(site: Site) -> None:
    site.start()
    site.run(3)
    site.world.edges_follow = False
    assert "no live edge" in site.run(60, until="Holding").reason
    held = (site.share, len(site.store.transitions()))
    site.run(30)
    assert (site.share, len(site.store.transitions())) == held
    site.world.edges_follow = True
    site.run(120, until="Succeeded")


def test_what_is_counted_before_a_share_is_settled_is_never_judged(tmp_path: Path) -> None:
    site = Site(tmp_path, example_plan(settle_s=5))
    site.start()
    site.run(5)
    assert site.store.analysis_ticks(site.rollout.id) == []
    site.run(4)
    first = site.store.analysis_ticks(site.rollout.id)[0]
    assert first.counts["metrics"]["errors"]["canary_requests"] < 300


# -- people ------------------------------------------------------------------------------------------------------------


def test_pause_stays_and_resume_goes_on(site: Site) -> None:
    site.start()
    site.run(3)
    commands.apply_event(site.store, site.rollout.id, Event.PAUSE, by="bob", reason="lunch")
    site.run(60)
    assert (site.rollout.phase, site.share) == ("Paused", 1000)
    commands.apply_event(site.store, site.rollout.id, Event.RESUME, by="bob")
    site.run(120, until="Succeeded")


def test_evidence_against_the_canary_takes_it_back_out_of_a_pause(site: Site) -> None:
    site.start()
    site.run(3)
    commands.apply_event(site.store, site.rollout.id, Event.PAUSE, by="bob")
    site.world.error_rate["green"] = 0.05
    site.run(30, until="RolledBack")


@pytest.mark.parametrize("seconds", [0, 1, 3, 8])
def test_an_abort_always_ends_at_0(site: Site, seconds: int) -> None:
    site.start()
    site.run(seconds)
    commands.apply_event(site.store, site.rollout.id, Event.ABORT, by="bob")
    assert site.share == 0
    site.run(20, until="Aborted")
    with pytest.raises(RefusedError, match=r"is Aborted since it was drained by teal-rollout"):
        commands.apply_event(site.store, site.rollout.id, Event.PROMOTE, by="bob")


def test_promote_skips_what_is_left(site: Site) -> None:
    site.start()
    site.run(3)
    commands.apply_event(site.store, site.rollout.id, Event.PROMOTE, by="bob", reason="trust me")
    assert site.share == 10_000
    site.run(20, until="Succeeded")
    assert any(row.detail.get("reason") == "promote by bob: trust me" for row in site.store.transitions())


def test_a_plan_may_pause_before_a_step(tmp_path: Path) -> None:
    plan = example_plan(steps={50: {"pause": True}})
    site = Site(tmp_path, plan)
    site.start()
    assert "pauses before 50 %" in site.run(60, until="Paused").reason
    assert site.share == 1000
    commands.apply_event(site.store, site.rollout.id, Event.RESUME, by="bob")
    site.run(120, until="Succeeded")


def test_a_second_person_has_to_approve(tmp_path: Path) -> None:
    site = Site(tmp_path, example_plan(approvals=1, steps={50: {"approvals": 2}}))
    started = site.start()
    site.run(3)
    assert (site.rollout.phase, site.share) == ("AwaitingApproval", 0)
    with pytest.raises(RefusedError, match="somebody else has to approve"):
        commands.decide_approval(site.store, started.id, by="ann", is_approved=True)
    commands.decide_approval(site.store, started.id, by="bob", is_approved=True)
    site.run(60, until="AwaitingApproval")
    assert site.share == 1000
    commands.decide_approval(site.store, started.id, by="bob", is_approved=True)
    site.run(3)
    assert site.share == 1000
    with pytest.raises(RefusedError, match="bob has approved 50 % of rollout flights-1 already"):
        commands.decide_approval(site.store, started.id, by="bob", is_approved=True)
    commands.decide_approval(site.store, started.id, by="cleo", is_approved=True)
    site.run(120, until="Succeeded")
    with pytest.raises(NotFoundError, match="waits for no approval"):
        commands.decide_approval(site.store, started.id, by="cleo", is_approved=True)


def test_a_denial_aborts(tmp_path: Path) -> None:
    site = Site(tmp_path, example_plan(approvals=1))
    started = site.start()
    site.run(2)
    commands.decide_approval(site.store, started.id, by="bob", is_approved=False, reason="not on a Friday")
    site.run(20, until="Aborted")
    assert any("denied by bob" in str(row.detail.get("reason")) for row in site.store.transitions())


def test_a_rollback_works_at_once_and_ends_the_rollout(site: Site) -> None:
    site.start()
    site.run(8)
    state, is_new = traffic.rollback(site.store, ENDPOINT, actor="bob", reason="page at night")
    assert (state.share, is_new) == (0, True)
    assert (site.rollout.phase, site.rollout.reason) == ("Aborted", "rollback to 0 % by bob")
    site.run(10)
    assert site.share == 0


def test_a_shift_by_hand_is_refused_unless_it_ends_the_rollout(site: Site) -> None:
    started = site.start()
    site.run(3)
    with pytest.raises(RefusedError, match=f"rollout {started.id} of 'flights' moves its traffic"):
        traffic.shift(site.store, ENDPOINT, 3000, actor="bob")
    assert site.share == 1000
    traffic.shift(site.store, ENDPOINT, 3000, actor="bob", force=True)
    site.run(10)
    assert (site.share, site.rollout.phase) == (3000, "Aborted")


def test_it_does_not_fight_who_changes_the_store_directly(site: Site) -> None:
    site.start()
    site.run(3)
    site.store.set_share(ENDPOINT, 7000, actor="script")
    site.run(5)
    assert (site.share, site.rollout.phase) == (7000, "Aborted")
    assert "somebody else gave the canary 70 %, not 10 %" in site.rollout.reason


# -- starting ----------------------------------------------------------------------------------------------------------


def test_one_rollout_at_a_time_and_the_conflict_says_whose(site: Site) -> None:
    site.start()
    with pytest.raises(ConflictError, match=r"rollout flights-1 of 'flights' is Pending: started by ann at"):
        commands.start(site.store, ENDPOINT, site.plan, "test", author="bob")


def test_a_repeated_key_starts_nothing_again(site: Site) -> None:
    first = site.start(key="k1")
    assert site.start(key="k1") == first
    assert len(site.store.rollouts()) == 1
    with pytest.raises(UsageError, match="was used for another command"):
        commands.start(site.store, ENDPOINT, example_plan(min_s=1), "test", author="ann", key="k1")


@pytest.mark.parametrize(
    ("prepare", "plan", "message"),
    [
        (lambda store: store.set_share(ENDPOINT, 1000, actor="x"), {}, "has 10 % already"),
        (lambda store: None, {"steps_percent": [100]}, "needs a step below 100 %"),
        (lambda store: None, {"expected_requests_per_s": 0.01}, r"the step at 10 % needs about [\d,]+ requests for"),
    ],
)
def test_what_cannot_work_is_refused_and_writes_nothing(
    site: Site, prepare: Any, plan: dict[str, Any], message: str
) -> None:
    prepare(site.store)
    rows = len(site.store.transitions())
    with pytest.raises((RefusedError, UsageError), match=message):
        commands.start(site.store, ENDPOINT, example_plan(**plan), "test", author="ann")
    assert (site.store.rollouts(), len(site.store.transitions())) == ([], rows)


# -- two controllers, and one that dies --------------------------------------------------------------------------------


def test_a_second_controller_does_nothing_while_the_first_lives(site: Site) -> None:
    site.start()
    site.world.pass_time()
    assert site.controller.advance()
    second = site.new_controller("second")
    assert second.advance() == []
    site.controller.release()
    assert second.advance()


def test_a_controller_that_was_replaced_is_fenced_off(site: Site) -> None:
    site.start()
    site.run(3)
    old = site.controller
    before = site.rollout
    site.world.at += 60
    site.world.pass_time()
    site.controller = site.new_controller("second")
    site.controller.advance()
    lease = old._lease
    with pytest.raises(ConflictError, match="is void"):
        site.store.record_tick(before, before, None, fencing=None if lease is None else lease.fencing)
    assert old.advance() == []


def test_evidence_that_cannot_be_read_any_more_takes_the_canary_back(site: Site) -> None:
    site.start()
    site.run(4)
    before = site.rollout
    broken = dataclasses.replace(before, progress={"analysis": {}})
    site.store.record_tick(before, broken, None)
    assert site.run(10, until="Failed").outcome == "Failed"
    assert site.share == 0
