"""The report: whole, self-contained, true to the summary, and safe against what stands in it."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from runtime.core.errors import ContractError
from runtime.pipeline.observed import SlotSecond, binomial_interval
from runtime.pipeline.report import render_report, write_report
from runtime.pipeline.summary import (
    Calibration,
    CandidateResult,
    DemoSummary,
    Event,
    GateDecision,
    GateDifference,
    Phase,
    QualityOfMonth,
    TargetStep,
)

VOID = {"meta", "br", "link", "img", "hr", "input"}


def make_phase(name: str, target: float, observed: float, n: int) -> Phase:
    low, high = binomial_interval(target, n)
    return Phase(
        name=name,
        split_target=target,
        split_observed=observed,
        n=n,
        interval_low=low,
        interval_high=high,
        ok=low <= observed <= high,
    )


def make_gate(candidate: str, champion: str, gain: float, reason: str, *, is_forced: bool = False) -> GateDecision:
    differences = [
        GateDifference(
            metric=metric,
            candidate=0.74,
            champion=0.74 - gain,
            improvement=gain * scale,
            lower=(gain - 0.015) * scale,
            upper=(gain + 0.015) * scale,
            margin=0.01,
        )
        for metric, scale in (("auc", 1.0), ("log_loss", 0.6))
    ]
    return GateDecision(
        candidate=candidate,
        champion=champion,
        verdict="Passed" if gain > 0 else "Rejected",
        reasons=[reason],
        differences=differences,
        holdout="flights July",
        n=28_293,
        is_forced=is_forced,
    )


def make_quality(month: str, auc: float | None, loss: float) -> QualityOfMonth:
    return QualityOfMonth(
        month=month,
        model="flights:1",
        slot="blue",
        n=27_000,
        auc=auc,
        auc_low=None if auc is None else auc - 0.013,
        auc_high=None if auc is None else auc + 0.013,
        log_loss=loss,
        log_loss_low=loss - 0.03,
        log_loss_high=loss + 0.03,
        calibration_error=0.061,
        mean_score=0.241,
        observed_rate=0.308,
    )


def make_series(seed: int = 0, duration: int = 150) -> list[SlotSecond]:
    generator = np.random.default_rng(seed)
    series = []
    for second in range(duration):
        share = 0.0 if second < 80 else 0.1 if second < 88 else 0.5 if second < 96 else 1.0
        if second > 125:
            share = 0.9 if second < 135 else 1.0
        green = int(generator.binomial(60, share))
        for slot, count in (("blue", 60 - green), ("green", green)):
            if count:
                slow = 45.0 if slot == "blue" and second > 125 else 4.0
                p50 = slow * float(generator.lognormal(0, 0.1))
                series.append(
                    SlotSecond(
                        second=second, slot=slot, num_answers=count, share=count / 60, p50_ms=p50, p95_ms=p50 * 2.2
                    )
                )
    return series


def make_summary() -> DemoSummary:
    mean_scores = [0.05 + 0.04 * k for k in range(15)]
    calibration = [
        Calibration(
            month=month,
            model="flights:1",
            mean_scores=mean_scores,
            observed_rates=[min(1.0, score * slope + 0.02) for score in mean_scores],
        )
        for month, slope in (("July", 1.4), ("June", 1.2))
    ]
    drift = {
        month: {
            "temperature": 5.7 * k,
            "dew point": 3.1 * k,
            "pressure": 0.4 * k,
            "carrier": 0.02,
            "distance": 0.01 * k,
        }
        for month, k in (("June", 0.6), ("July", 1.0))
    }
    return DemoSummary(
        requests_sent=21_034,
        requests_failed=0,
        phases=[
            make_phase("10 % to flights:2", 0.1, 0.094, 480),
            make_phase("50 % to flights:2", 0.5, 0.512, 470),
            make_phase("100 % to flights:2", 1.0, 1.0, 1750),
            make_phase("10 % to flights:3", 0.1, 0.19, 600),
        ],
        candidates=[
            CandidateResult(
                name="first flights:1", family="mlp", run_id="a" * 32, auc=0.741, log_loss=0.487, verdict="Passed"
            ),
            CandidateResult(name="first linear 2", family="linear", run_id="b", auc=0.733, log_loss=0.492, verdict=""),
            CandidateResult(
                name="retrained flights:2", family="mlp", run_id="c", auc=0.752, log_loss=0.521, verdict="Passed"
            ),
            CandidateResult(
                name="stale linear 1", family="linear", run_id="d", auc=0.690, log_loss=0.540, verdict="Rejected"
            ),
        ],
        champion="flights:2",
        data_versions=["flights@0", "flights@1"],
        drift_by_feature=drift,
        quality_by_month=[make_quality("July", 0.667, 0.61), make_quality("June", 0.705, 0.58)],
        gates=[
            make_gate("first flights:1", "base rate", 0.2, "AUC 0.741 is 0.241 higher than the base rate's 0.500"),
            make_gate("retrained flights:2", "flights:1", 0.084, "AUC 0.751 is 0.084 higher than the champion's 0.667"),
            make_gate(
                "stale linear 1",
                "flights:2",
                -0.052,
                "AUC 0.701 is 0.052 lower than the champion's 0.753 (97.5 % bound −0.061), more than the margin 0.010",
            ),
            make_gate("slow flights:3", "flights:2", -0.06, "AUC 0.690 is 0.060 lower", is_forced=True),
        ],
        rollback_ms=131.4,
        duration_s=197.0,
        series=make_series(),
        targets=[
            TargetStep(second=80, slot="green", share=0.1),
            TargetStep(second=88, slot="green", share=0.5),
            TargetStep(second=96, slot="green", share=1.0),
            TargetStep(second=126, slot="blue", share=0.1),
            TargetStep(second=135, slot="blue", share=0.0),
        ],
        events=[
            Event(second=0, title="the load starts", detail="60 requests a second"),
            Event(second=2, title="June begins", detail="June drifts most in temperature (PSI 3.42)"),
            Event(second=25, title="July begins"),
            Event(second=48, title="retraining starts", detail="data flights@1: 195,000 flights of January to July"),
            Event(second=80, title="10 % to flights:2"),
            Event(second=88, title="50 % to flights:2"),
            Event(second=96, title="100 % to flights:2"),
            Event(second=98, title="flights:2 is champion"),
            Event(second=104, title="a stale candidate is trained", detail="rejected by the gate"),
            Event(second=114, title="a slow model is trained"),
            Event(second=126, title="10 % to flights:3"),
            Event(second=135, title="rollback", detail="rolled back"),
        ],
        calibration=calibration,
        limits=["The months were chosen after seeing the whole year.", "Drift is not harm."],
        about={"ray": "2.60.0", "machine": "Linux"},
    )


def empty_summary() -> DemoSummary:
    return DemoSummary(
        requests_sent=0,
        requests_failed=0,
        phases=[],
        candidates=[],
        champion="",
        data_versions=[],
        drift_by_feature={},
        quality_by_month=[],
        gates=[],
        rollback_ms=0.0,
        duration_s=0.0,
    )


class Checker(HTMLParser):
    """Open elements, ids, text, and whatever a browser would fetch or run."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.outside: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href", "srcset", "action") and not (value or "").startswith("#"):
                self.outside.append(f"{tag} {name}={value}")
            if name.startswith("on"):
                self.outside.append(f"{tag} {name}")
        if tag in ("script", "iframe", "object", "embed", "link"):
            self.outside.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"{tag} was never opened"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def page() -> str:
    return render_report(make_summary())


def test_the_page_is_whole_and_needs_nothing_else(page: str) -> None:
    checker = Checker(page)
    assert checker.open == []
    assert checker.outside == []
    assert len(set(checker.ids)) == len(checker.ids)
    assert not re.search(r"@import|url\((?!#)", page)
    assert page.count("<svg") == 7


def test_every_reference_within_a_plot_leads_somewhere(page: str) -> None:
    ids = set(Checker(page).ids)
    references = re.findall(r'(?:url\(#|href="#)([^")]+)', page)
    assert references
    assert set(references) <= ids


def test_it_says_what_the_summary_says(page: str) -> None:
    text = re.sub(r"\s+", " ", Checker(page).text)
    for expected in (
        "21,034requests sent",
        "3 of 4splits within their 99.9 % interval",
        "131 ms",
        "0.705 in June (flights:1), 0.667 in July (flights:1)",
        "The gate passed 2 candidates and rejected 2; 1 of the rejected went on by force",
        "In July temperature (5.70), dew point (3.10), pressure (0.40) moved most.",
        "more than the margin 0.010",
        "outside",
        "flights@0, flights@1",
        "The months were chosen after seeing the whole year.",
    ):
        assert expected in text, expected


def test_plots_follow_the_reader_s_light_or_dark(page: str) -> None:
    plots = "".join(re.findall(r"<svg.*?</svg>", page, re.DOTALL))
    assert "var(--ink)" in plots
    assert not re.search(r"#0[1-7]0[1-7]0[1-7]", plots)
    assert not re.search(r"(fill|stroke): #(?!ffffff)", plots)


def test_text_is_shown_and_never_run() -> None:
    evil = '<script>alert("x")</script> & $a_b$'
    summary = make_summary()
    page = render_report(
        replace(
            summary,
            champion=evil,
            data_versions=[evil],
            events=[Event(second=1, title=evil, detail=evil)],
            phases=[replace(summary.phases[0], name=evil)],
            candidates=[replace(summary.candidates[0], name=evil)],
            gates=[replace(summary.gates[0], candidate=evil, champion=evil, reasons=[evil])],
            quality_by_month=[replace(summary.quality_by_month[0], month=evil, model=evil)],
            calibration=[replace(summary.calibration[0], month=evil, model=evil)],
            drift_by_feature={evil: {evil: 1.0}},
            limits=[evil],
            about={evil: evil},
        )
    )
    checker = Checker(page)
    assert checker.open == []
    assert checker.outside == []
    assert "<script" not in page


def test_an_empty_run_still_has_a_report() -> None:
    checker = Checker(render_report(empty_summary()))
    assert checker.open == []
    assert "nan" not in checker.text.lower()


def test_unknown_figures_are_dashes() -> None:
    summary = replace(make_summary(), quality_by_month=[make_quality("June", None, 0.5)])
    page = render_report(summary)
    assert '<td class="number">–</td>' in page
    assert "None" not in Checker(page).text


def test_failures_are_not_shown_as_good() -> None:
    page = render_report(replace(make_summary(), requests_failed=3, rollback_ms=2400.0))
    assert '<div class="tile bad"><b>3</b>' in page
    assert '<div class="tile bad"><b>2400 ms</b>' in page


def test_both_files_are_written_and_read_back(tmp_path: Path) -> None:
    summary = make_summary()
    assert write_report(summary, tmp_path / "out") == tmp_path / "out" / "report.html"
    plain = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert DemoSummary.from_json(plain) == summary
    assert plain["phases"][0]["split_target"] == 0.1
    assert (tmp_path / "out" / "report.html").read_text() == render_report(summary)


def test_a_summary_that_is_none_names_the_key() -> None:
    plain = make_summary().to_json()
    plain["phases"][1]["n"] = "many"
    with pytest.raises(ContractError, match=r"phases\.1\.n"):
        DemoSummary.from_json(plain)
