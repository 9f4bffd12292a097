"""Labels that come back late: counted to the slot and the share that answered, never against the wrong hour."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.config.rollout import RolloutMetricConfig
from runtime.rollout.analysis import Analysis
from runtime.rollout.event_counts import sum_values
from runtime.rollout.labels import LOSS_CAP, MIN_ROWS, Labelled, LossReader, Span, fresh_sums, sum_losses
from runtime.rollout.plan import analysis_plan, steps_of
from tests.rollout_world import ENDPOINT, START, Site, example_plan, open_store
from tests.waiting import wait_until

MODELS = {"blue": "m:1", "green": "m:2"}
METRICS = {
    "errors": RolloutMetricConfig(kind="errors", margin=0.5, negligible_rate=0.02),
    "loss": RolloutMetricConfig(kind="feedback", loss="brier", margin=0.05, expected=0.2),
}


def rows(at: Any, slot: str, *, score: Any, label: Any, model: str | None = None) -> Labelled:
    times = np.atleast_1d(np.asarray(at, dtype=float))
    full = np.broadcast_to
    return Labelled(
        at=times,
        slot=np.full(times.shape, slot),
        model=np.full(times.shape, model or MODELS[slot]),
        score=np.array(full(np.asarray(score, dtype=float), times.shape)),
        label=np.array(full(np.asarray(label, dtype=float), times.shape)),
    )


def joined(*parts: Labelled) -> Labelled:
    return Labelled(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in Labelled._fields})


def test_a_late_label_counts_for_the_slot_and_the_share_that_answered() -> None:
    spans = [Span(step=0, share=1000, since=100, until=200), Span(step=1, share=5000, since=210)]
    labelled = joined(
        rows([150, 199.9], "green", score=0.9, label=1),
        rows([205], "green", score=0.9, label=0),  # between two shares: nobody's
        rows([220], "green", score=0.2, label=1),
        rows([230], "blue", score=0.2, label=0),
        rows([240], "green", score=0.2, label=0, model="m:7"),  # what stood there before
    )
    sums = sum_losses(labelled, spans, ["error", "log_loss"], MODELS)
    assert {key: {slot: cells[0] for slot, cells in by_slot.items()} for key, by_slot in sums.items()} == {
        "error/0": {"blue": 0, "green": 2},
        "error/1": {"blue": 1, "green": 1},
        "log_loss/0": {"blue": 0, "green": 2},
        "log_loss/1": {"blue": 1, "green": 1},
    }
    assert sums["error/0"]["green"] == [2, 0, 0]
    assert sums["error/1"]["green"] == [1, 1, 1]
    sure = sum_losses(rows([150], "green", score=1e-9, label=1), spans, ["log_loss"], MODELS)
    assert sure["log_loss/0"]["green"][1] == LOSS_CAP


def test_what_was_taken_counts_once_and_too_little_waits() -> None:
    now = {"brier/0": {"blue": [500.0, 50.0, 9.0], "green": [MIN_ROWS - 1.0, 5.0, 1.0]}}
    assert fresh_sums(now, {}, "brier/0", "green", "blue") is None
    now["brier/0"]["green"][0] += 1
    found = fresh_sums(now, {}, "brier/0", "green", "blue")
    assert found is not None
    assert (found.canary_rows, found.primary_rows) == (MIN_ROWS, 500)
    assert fresh_sums(now, now, "brier/0", "green", "blue") is None


class Labels:
    """Labels of the site's traffic, each some seconds after its answer."""

    def __init__(self, site: Site, *, loss: dict[str, float], delay_s: float = 0.0) -> None:
        self.site, self.loss, self.delay_s = site, loss, delay_s
        self.parts: list[Labelled] = []
        self._random = np.random.default_rng(2)

    def pass_time(self) -> None:
        world = self.site.world
        for slot, model in (("blue", f"{ENDPOINT}:1"), ("green", f"{ENDPOINT}:2")):
            number = int(200 * world.applied.slot_share("green" if slot == "green" else "blue") / 10_000)
            score = np.clip(self._random.normal(self.loss[slot], 0.05, number), 0, 1)
            at = world.at - self._random.random(number)
            self.parts.append(rows(at, slot, score=np.sqrt(score), label=0, model=model))
        known = joined(*self.parts)
        has_come = known.at < world.at - self.delay_s
        world.labelled = Labelled(**{name: getattr(known, name)[has_come] for name in Labelled._fields})

    def run(self, seconds: int, until: str) -> None:
        for _ in range(seconds):
            self.site.run(1)
            self.pass_time()
            if self.site.rollout.phase == until:
                return
        pytest.fail(f"still {self.site.rollout.phase}: {self.site.rollout.reason}")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path, example_plan(metrics=METRICS, hold_after_s=20))
    site.start()
    yield site
    site.store.close()


def test_a_canary_whose_labels_are_as_good_is_promoted_when_they_have_come(site: Site) -> None:
    labels = Labels(site, loss={"blue": 0.2, "green": 0.2}, delay_s=20)
    labels.run(25, until="Progressing")
    site.run(15)
    assert "loss is not yet proved" in site.store.analysis_ticks(site.rollout.id)[-1].verdict["reasons"][0]
    assert site.share == 1000
    labels.run(300, until="Succeeded")


@pytest.mark.parametrize("delay_s", [0, 15])
def test_a_canary_that_is_wrong_more_often_is_rolled_back_by_its_labels(site: Site, delay_s: float) -> None:
    Labels(site, loss={"blue": 0.2, "green": 0.35}, delay_s=delay_s).run(300, until="RolledBack")
    assert any("most so in loss" in str(row.detail.get("reason")) for row in site.store.transitions())


def test_labels_of_an_earlier_step_speak_against_the_canary_and_not_for_it() -> None:
    plan = analysis_plan(example_plan(metrics=METRICS), steps_of(example_plan())[0])
    rng = np.random.default_rng(1)
    analysis = Analysis.begin(plan).at_new_step()
    good = sum_values(rng.normal(0.1, 0.1, 2000), rng.normal(0.2, 0.1, 2000))
    late = analysis.observe_late("loss", good, is_of_this_step=False)
    assert late.states[1].log_promotion == 0
    assert analysis.observe_late("loss", good, is_of_this_step=True).states[1].log_promotion > 10
    bad = sum_values(rng.normal(0.4, 0.1, 2000), rng.normal(0.2, 0.1, 2000))
    assert analysis.observe_late("loss", bad, is_of_this_step=False).verdict().outcome == "Failed"


def test_without_a_label_even_a_plan_without_proof_waits(tmp_path: Path) -> None:
    site = Site(tmp_path, example_plan(metrics=METRICS, promote_on="no_harm"))
    site.start()
    site.run(30)
    assert (site.rollout.phase, site.share) == ("Progressing", 1000)
    assert "no labels came back yet" in str(site.store.analysis_ticks(site.rollout.id)[-1].verdict["reasons"])
    Labels(site, loss={"blue": 0.2, "green": 0.2}).run(100, until="Succeeded")


def test_a_loss_that_moves_with_the_hour_is_not_taken_for_the_canarys() -> None:
    """Equal slots; at a share of 50 % all rows are harder than they were at 5 %, and labels come mixed. 200 times."""
    plan = analysis_plan(example_plan(metrics=METRICS), steps_of(example_plan())[0])
    rng = np.random.default_rng(9)
    by_span = pooled = 0
    for _ in range(200):
        apart = together = Analysis.begin(plan)
        for _ in range(30):
            cells = []
            for share, level, total in ((0.05, 0.2, 2000), (0.5, 0.4, 200)):
                canary = rng.binomial(total, share)
                cells.append((rng.exponential(level, canary), rng.exponential(level, total - canary)))
            for number, (canary_losses, primary_losses) in enumerate(cells):
                sums = sum_values(canary_losses, primary_losses)
                apart = apart.observe_late("loss", sums, is_of_this_step=number == 1)
            mixed = (np.concatenate([cell[side] for cell in cells]) for side in (0, 1))
            together = together.observe_late("loss", sum_values(*mixed), is_of_this_step=True)
        by_span += apart.verdict().outcome == "Failed"
        pooled += together.verdict().outcome == "Failed"
    assert by_span / 200 <= 0.05
    assert pooled / 200 > 0.5


def test_labels_are_read_in_the_background_and_a_failure_is_no_news(tmp_path: Path) -> None:
    asked = []

    def read(endpoint: str, since: float) -> Labelled:
        asked.append((endpoint, since))
        if len(asked) == 1:
            raise OSError("disk")
        return rows([START], "green", score=0.9, label=0, model=f"{ENDPOINT}:2")

    reader = LossReader(read)
    state = open_store(tmp_path).endpoint(ENDPOINT)
    spans = [Span(step=0, share=1000, since=START - 5)]
    assert reader.read_losses(state, [], ["error"]) is None
    assert asked == []
    assert reader.read_losses(state, spans, ["error"]) is None
    reader.finish()
    reader._next_at.clear()
    found = wait_until(lambda: reader.read_losses(state, spans, ["error"]), timeout_s=10)
    assert found is not None
    assert found["error/0"]["green"] == [1, 1, 1]
    assert asked == [(ENDPOINT, START - 5)] * 2
