"""What a rollout did, as one JSON document: steps with what was counted, evidence over time, decisions, people."""

import math
from dataclasses import asdict
from typing import Any

from runtime.rollout.plan import plan_from_json, steps_of
from runtime.rollout.shadowing import ShadowVerdict, judge_shadow, sum_counts
from runtime.store.records import FULL_SHARE, Transition
from runtime.store.rollouts import AnalysisTick, Rollout, RolloutStore, moment

FORMAT = 1
NORMAL_975 = 1.959964


def summarise(store: RolloutStore, rollout: Rollout) -> dict[str, Any]:
    """Complete once the rollout has ended; until then as far as it is."""
    ticks = store.analysis_ticks(rollout.id)
    rows = [row for row in store.transitions(rollout.endpoint) if _is_about(row, rollout.id)]
    primary_slot = "green" if rollout.canary_slot == "blue" else "blue"
    plan = plan_from_json(rollout.plan)
    shadow = read_shadow(store, rollout)
    return {
        "format": FORMAT,
        "rollout": rollout.id,
        "endpoint": rollout.endpoint,
        "phase": rollout.phase,
        "outcome": rollout.outcome,
        "reason": rollout.reason,
        "basis": plan.promote_on,
        "canary": {"slot": rollout.canary_slot, "model": rollout.canary_model},
        "primary": {"slot": primary_slot, "model": rollout.primary_model},
        "author": rollout.author,
        "started_at": moment(rollout.created_at),
        "ended_at": None if rollout.ended_at is None else moment(rollout.ended_at),
        "plan_name": rollout.plan_name,
        "plan": rollout.plan,
        "shadow": None if shadow is None else asdict(shadow),
        "steps": [
            _step(step.percent, [tick for tick in ticks if tick.step == number], rollout.canary_slot, primary_slot)
            for number, step in enumerate(steps_of(plan))
            if number <= rollout.step and not step.is_last
        ],
        "evidence": [_evidence(tick, rollout.created_at) for tick in ticks],
        "people": sorted({row.actor for row in rows}),
        "decisions": [
            {
                "at": row.at,
                "who": row.actor,
                "what": row.action,
                "why": row.detail.get("reason", ""),
                "phase": row.detail.get("phase"),
                "row": row.sequence,
                "hash": row.hash,
            }
            for row in rows
        ],
    }


def read_shadow(store: RolloutStore, rollout: Rollout) -> ShadowVerdict | None:
    """What was compared in the shadow; None where the plan has none, or nothing was asked yet."""
    plan = plan_from_json(rollout.plan)
    counted = [] if plan.shadow is None else store.shadow_counts(rollout.id)
    return judge_shadow(plan, sum_counts(counted)) if counted else None


def share_interval(canary: int, total: int) -> tuple[float, float]:
    """95 % Wilson interval of the observed share."""
    if not total:
        return 0.0, 1.0
    z, share = NORMAL_975, canary / total
    middle = share + z * z / (2 * total)
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return (middle - half) / (1 + z * z / total), (middle + half) / (1 + z * z / total)


def _step(percent: int, ticks: list[AnalysisTick], canary: str, primary: str) -> dict[str, Any]:
    slots: dict[str, dict[str, int]] = {}
    for role, slot in (("canary", canary), ("primary", primary)):
        counted = [tick.counts["slots"].get("edge", {}).get(slot, {}) for tick in ticks]
        slots[role] = {
            name: int(sum(found.get(name, 0) for found in counted)) for name in ("requests", "errors", "refused")
        }
    total = slots["canary"]["requests"] + slots["primary"]["requests"]
    low, high = share_interval(slots["canary"]["requests"], total)
    return {
        "percent": percent,
        "ticks": len(ticks),
        "counted": slots,
        "share_wanted": percent * 100 / FULL_SHARE,
        "share_observed": slots["canary"]["requests"] / total if total else None,
        "share_interval": [low, high],
        "verdict": ticks[-1].verdict if ticks else None,
    }


def _evidence(tick: AnalysisTick, since: float) -> dict[str, Any]:
    verdict = tick.verdict
    return {
        "s": round(tick.at - since, 3),
        "share": tick.share,
        "log_rollback": verdict["log_rollback"],
        "log_promotion": verdict["log_promotion"],
        "rollback_threshold": verdict["rollback_threshold"],
        "promotion_threshold": verdict["promotion_threshold"],
        "outcome": verdict["outcome"],
        "metrics": {metric["name"]: [metric["log_rollback"], metric["log_promotion"]] for metric in verdict["metrics"]},
    }


def _is_about(row: Transition, rollout_id: str) -> bool:
    """Rows of this rollout; its certificate's own row comes after the certificate."""
    detail = row.detail
    noted = detail.get("rollout") or (detail.get("detail") or {}).get("rollout")
    subject = str(detail.get("subject", ""))
    return row.action != "certificate" and (noted == rollout_id or subject.startswith(f"{rollout_id} to "))
