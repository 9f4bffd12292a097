"""A demo's record as its summary: shares with intervals, quality by month from the labels, the series of the plots."""

import platform
from importlib.metadata import version

from runtime.monitoring.quality import Quality
from runtime.pipeline.demo_quality import month_quality
from runtime.pipeline.demo_record import DemoGate, DemoRecord
from runtime.pipeline.observed import by_second, last_start_ms, observed_share
from runtime.pipeline.steps import Session
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
from runtime.store.records import FULL_SHARE

LIMITS = [
    "The months were chosen after seeing the whole year: here retraining helps. From October on it gains nothing.",
    "The retrained model is worse calibrated in August and September than the first one, which July does not show.",
    "Weather is that of the hour of departure, so it is known only shortly before it.",
    "Drift is not harm: temperature moves most in May, when quality is best. PSI is an effect size, not a test.",
    "July alone judged the challenger: the interval is over its days, and says nothing of other months.",
]


def summarise(session: Session, record: DemoRecord, *, duration_s: float) -> DemoSummary:
    started_at = min(answer.started_at for answer in record.answers)
    replay_sent = sum(replayed.num_requests for replayed in record.replayed) + record.num_label_requests
    replay_failed = sum(replayed.num_failed for replayed in record.replayed) + record.num_label_requests_failed
    qualities = month_quality(session, record)
    return DemoSummary(
        requests_sent=len(record.answers) + replay_sent,
        requests_failed=sum(answer.is_failed for answer in record.answers) + replay_failed,
        phases=_phases(record),
        candidates=[
            CandidateResult(
                name=record.names[candidate.run_id],
                family=candidate.family,
                run_id=candidate.run_id,
                auc=candidate.metrics["auc"],
                log_loss=candidate.metrics["log_loss"],
                verdict=next((gate.verdict for gate in record.gates if gate.run_id == candidate.run_id), ""),
            )
            for candidate in record.candidates
        ],
        champion=record.champion,
        data_versions=record.data_versions,
        drift_by_feature=record.drift,
        quality_by_month=[_quality_of_month(quality) for quality in qualities],
        gates=[_gate_decision(gate, record) for gate in record.gates],
        rollback_ms=last_start_ms(record.answers, record.bad_slot, record.rollback_issued_at),
        duration_s=duration_s,
        series=by_second(record.answers, started_at),
        targets=[
            TargetStep(second=phase.started_at - started_at, slot=phase.slot, share=phase.share / FULL_SHARE)
            for phase in record.phases
        ],
        events=[Event(second=at - started_at, title=title, detail=detail) for at, title, detail in record.events],
        calibration=[
            Calibration(
                month=quality.period,
                model=quality.model_version,
                mean_scores=[mean for mean, _, _ in quality.calibration],
                observed_rates=[rate for _, rate, _ in quality.calibration],
            )
            for quality in qualities
        ],
        limits=LIMITS,
        about={
            "python": platform.python_version(),
            "machine": platform.platform(),
            "code": session.code().commit,
            **{name: version(name) for name in ("ray", "torch", "mlflow", "deltalake")},
        },
    )


def _phases(record: DemoRecord) -> list[Phase]:
    phases = []
    for phase in record.phases:
        share = observed_share(record.answers, phase.generations, phase.slot, phase.share / FULL_SHARE)
        phases.append(
            Phase(
                name=phase.name,
                split_target=share.target,
                split_observed=share.observed,
                n=share.num_answers,
                interval_low=share.interval_low,
                interval_high=share.interval_high,
                ok=share.is_within,
            )
        )
    return phases


def _quality_of_month(quality: Quality) -> QualityOfMonth:
    return QualityOfMonth(
        month=quality.period,
        model=quality.model_version,
        slot=quality.slot,
        n=quality.num_labelled,
        auc=quality.auc.value,
        auc_low=quality.auc.low,
        auc_high=quality.auc.high,
        log_loss=quality.log_loss.value,
        log_loss_low=quality.log_loss.low,
        log_loss_high=quality.log_loss.high,
        calibration_error=quality.calibration_error,
        mean_score=quality.mean_score,
        observed_rate=quality.observed_rate,
    )


def _gate_decision(gate: DemoGate, record: DemoRecord) -> GateDecision:
    comparison = gate.report["comparison"]
    return GateDecision(
        candidate=record.names[gate.run_id],
        champion=gate.champion or "base rate",
        verdict=gate.verdict,
        reasons=gate.report["reasons"],
        differences=[
            GateDifference(**{name: metric[name] for name in GateDifference.__slots__})
            for metric in comparison["metrics"]
        ],
        holdout=gate.holdout,
        n=comparison["num_rows"],
        is_forced=gate.is_forced,
    )
