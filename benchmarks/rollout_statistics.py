"""False rollbacks, false promotions and the delay to detection of the rollout analysis, by simulation.

Beside it, on the same traffic: a z-test at every tick, the same with Bonferroni's correction, and fixed thresholds as
the manuals of Flagger and Argo Rollouts show them.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import rollout_simulation as simulation  # noqa: E402
from benchmarks.result import Figure, report  # noqa: E402
from benchmarks.rollout_simulation import FixedThreshold, Traffic, evidence_path, first_crossing, simulate_events  # noqa: E402
from runtime.rollout.evidence import Direction, Floats  # noqa: E402

ALPHA = 0.05
NUM_LOOKS = 500
SHARE = 0.05
MARGIN = 0.1
SEED = 20260101
MAX_DELAYS = {"1_5": (1.5, 90.0), "2": (2.0, 30.0), "3": (3.0, 12.0), "10": (10.0, 2.0)}
LATENCY_SLOWDOWNS = {"1_05": (1.05, 120, 45.0), "1_1": (1.1, 40, 14.0), "1_2": (1.2, 20, 5.0)}
"""Factor, ticks simulated, the most that the median may be."""
FLAGGER = FixedThreshold(max_error_rate=0.01, num_failures=5)
"""request-success-rate min 99 (https://docs.flagger.app/usage/metrics), threshold 5."""
ARGO = FixedThreshold(max_error_rate=0.05, num_failures=4)
"""successCondition >= 0.95, failureLimit 3 (https://argo-rollouts.readthedocs.io/en/stable/features/analysis/)."""
NUM_CHECKS = 10
"""After so many checks their rollout is through, as with Flagger's stepWeight 5 and maxWeight 50."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few repetitions: for a look, not for a record")
    parser.add_argument("--json", type=Path, help="write the document here")
    parser.add_argument("--plot", type=Path, help="draw the docs' picture here, as SVG")
    arguments = parser.parse_args()
    repetitions = 300 if arguments.quick else 2000
    started = time.monotonic()
    figures, raw = measure(repetitions, SEED)
    figures.append(_reported("wall_s", time.monotonic() - started, "s"))
    if arguments.plot is not None:
        draw(arguments.plot, SEED)
    return report("rollout_statistics", figures, raw | {"repetitions": repetitions, "seed": SEED}, arguments.json)


def measure(repetitions: int, seed: int) -> tuple[list[Figure], dict[str, Any]]:
    rng = np.random.default_rng(seed)
    figures: list[Figure] = []
    raw: dict[str, Any] = {"alpha": ALPHA, "num_looks": NUM_LOOKS, "requests_per_tick": simulation.REQUESTS}
    for name, shares in (
        ("constant", simulation.constant_share(SHARE, NUM_LOOKS)),
        ("ramp", simulation.ramp(NUM_LOOKS)),
    ):
        traffic = simulate_events(rng, repetitions=repetitions, shares=shares, relative_risk=1.0)
        figures.append(_at_most_alpha(f"false_rollback_{name}", rollback_ticks(traffic, 0.0)))
        for rule, ticks in peers(traffic).items():
            figures.append(_reported(f"false_rollback_{name}_{rule}", _fired(ticks)))
            if rule in ("flagger", "argo"):
                share = float((ticks <= NUM_CHECKS).mean())
                figures.append(_reported(f"false_rollback_{name}_{rule}_{NUM_CHECKS}_checks", share))
        at_margin = simulate_events(rng, repetitions=repetitions, shares=shares, relative_risk=1.0 + MARGIN)
        figures.append(_at_most_alpha(f"false_rollback_{name}_margin", rollback_ticks(at_margin, MARGIN)))
    figures += delays(rng, repetitions, raw)
    figures += promotions(rng, repetitions)
    figures += other_metrics(rng, repetitions)
    return figures, raw


def rollback_ticks(traffic: Traffic, margin: float) -> Floats:
    return first_crossing(evidence_path(traffic, margin=margin, direction="rollback"), ALPHA)


def peers(traffic: Traffic) -> dict[str, Floats]:
    return {
        "z_test": simulation.z_test(traffic, ALPHA),
        "bonferroni": simulation.z_test(traffic, ALPHA, NUM_LOOKS),
        "flagger": simulation.fixed_threshold(traffic, FLAGGER),
        "argo": simulation.fixed_threshold(traffic, ARGO),
    }


def delays(rng: np.random.Generator, repetitions: int, raw: dict[str, Any]) -> list[Figure]:
    figures = []
    shares = simulation.constant_share(SHARE, NUM_LOOKS)
    raw["delays"] = {}
    for name, (risk, target) in MAX_DELAYS.items():
        traffic = simulate_events(rng, repetitions=repetitions, shares=shares, relative_risk=risk, is_any_hour=True)
        ticks = rollback_ticks(traffic, 0.0)
        figures.append(_median(f"delay_rho{name}_ticks", ticks, target))
        figures.append(_median(f"delay_rho{name}_margin_ticks", rollback_ticks(traffic, MARGIN)))
        figures.extend(_median(f"delay_rho{name}_{rule}_ticks", peer) for rule, peer in peers(traffic).items())
        raw["delays"][name] = {f"p{level}": _quantile(ticks, level) for level in (10, 50, 90, 99)}
    return figures


def promotions(rng: np.random.Generator, repetitions: int) -> list[Figure]:
    """Canaries exactly at the margin, which must not be promoted, split in three ways; then worse and equal ones."""
    falsely = []
    for shares in (
        simulation.constant_share(SHARE, NUM_LOOKS),
        simulation.constant_share(0.5, NUM_LOOKS),
        simulation.ramp(NUM_LOOKS),
    ):
        traffic = simulate_events(rng, repetitions=repetitions, shares=shares, relative_risk=1.0 + MARGIN)
        path = evidence_path(traffic, margin=MARGIN, direction="promotion")
        falsely.append(first_crossing(path, ALPHA))
    figures = [_at_most_alpha("false_promotion", max(falsely, key=_fired))]
    shares = simulation.constant_share(SHARE, NUM_LOOKS)
    twice = simulate_events(rng, repetitions=repetitions, shares=shares, relative_risk=2.0)
    path = evidence_path(twice, margin=MARGIN, direction="promotion")
    figures.append(_at_most_alpha("false_promotion_rho2", first_crossing(path, ALPHA)))
    for name, rule in (("flagger", FLAGGER), ("argo", ARGO)):
        ticks = simulation.fixed_threshold(twice, rule)
        figures.append(_reported(f"false_promotion_rho2_{name}", float((ticks > NUM_CHECKS).mean())))
    for margin in (0.1, 0.25, 0.5):
        for share in (SHARE, 0.5):
            same = simulate_events(
                rng,
                repetitions=repetitions,
                shares=simulation.constant_share(share, 2 * NUM_LOOKS),
                relative_risk=1.0,
                is_any_hour=True,
            )
            ticks = first_crossing(evidence_path(same, margin=margin, direction="promotion"), ALPHA)
            name = f"promotion_margin{margin * 100:.0f}_share{share * 100:.0f}"
            figures.append(_median(f"{name}_ticks", ticks))
            figures.append(_reported(f"{name}_within_1000", _fired(ticks)))
    return figures


def other_metrics(rng: np.random.Generator, repetitions: int) -> list[Figure]:
    figures = []
    same = simulation.latency_evidence(rng, repetitions=repetitions, num_ticks=100, share=0.1, slowdown=1.0, margin=0.0)
    figures.append(_at_most_alpha("false_rollback_latency", first_crossing(same, ALPHA)))
    for name, (slowdown, num_ticks, target) in LATENCY_SLOWDOWNS.items():
        path = simulation.latency_evidence(
            rng, repetitions=repetitions, num_ticks=num_ticks, share=0.1, slowdown=slowdown, margin=0.0
        )
        figures.append(_median(f"delay_latency_{name}_ticks", first_crossing(path, ALPHA), target))
    for name, shift in (("false_rollback_value", 0.0), ("delay_value_0_1sd_ticks", 0.1)):
        path = simulation.value_evidence(rng, repetitions=repetitions, num_ticks=300, share=0.1, shift=shift)
        ticks = first_crossing(path, ALPHA)
        figures.append(_median(name, ticks) if shift else _at_most_alpha(name, ticks))
    for counting in ("requests", "capped", "once"):
        traffic = simulation.sticky_traffic(rng, repetitions=repetitions, num_ticks=200, share=SHARE, counting=counting)
        ticks = rollback_ticks(traffic, 0.0)
        name = f"false_rollback_sticky_{counting}"
        figures.append(_at_most_alpha(name, ticks) if counting == "once" else _reported(name, _fired(ticks)))
    return figures


def _fired(ticks: Floats) -> float:
    return float(np.isfinite(ticks).mean())


def _quantile(ticks: Floats, level: float) -> float:
    """inf, which JSON has not, becomes -1: not within the ticks simulated."""
    value = float(np.quantile(ticks, level / 100, method="inverted_cdf"))
    return value if np.isfinite(value) else -1.0


def _reported(name: str, value: float, unit: str = "fraction") -> Figure:
    return Figure(name=name, value=value, unit=unit, target=None, op="<=")


def _at_most_alpha(name: str, ticks: Floats) -> Figure:
    return Figure(name=name, value=_fired(ticks), unit="fraction", target=ALPHA, op="<=")


def _median(name: str, ticks: Floats, target: float | None = None) -> Figure:
    value = _quantile(ticks, 50)
    if target is not None and value < 0:
        value = float(NUM_LOOKS + 1)
    return Figure(name=name, value=value, unit="ticks", target=target, op="<=")


def draw(path: Path, seed: int) -> None:
    """Evidence over time, a few rollouts of each kind, against 1/α."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "teal"})
    from matplotlib import pyplot as plt

    rng = np.random.default_rng(seed)
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True, layout="constrained")
    panels: list[tuple[float, float, Direction]] = [(SHARE, 0.0, "rollback"), (0.5, 0.25, "promotion")]
    for ax, (share, margin, direction) in zip(axes, panels, strict=True):
        for risk, colour in ((1.0, "tab:blue"), (1.5, "tab:orange"), (2.0, "tab:red")):
            shares = simulation.constant_share(share, 150)
            traffic = simulate_events(rng, repetitions=5, shares=shares, relative_risk=risk, is_any_hour=True)
            paths = evidence_path(traffic, margin=margin, direction=direction)[:, ::3] / np.log(10)
            ax.plot(np.arange(1, 151, 3), np.clip(paths.T, -3, 5), color=colour, linewidth=0.8)
            ax.plot([], [], color=colour, label=f"relative risk {risk:g}")
        ax.axhline(np.log10(1 / ALPHA), color="black", linestyle="--", linewidth=0.8)
        ax.set(
            title=f"{direction}, {share:.0%} share, margin {margin:.0%}".replace("%", " %"),
            xlabel="tick of 1,000 requests",
            ylim=(-3, 5),
        )
    axes[0].set_ylabel("evidence, log10 E (dashed: 1/α)")
    axes[0].legend(fontsize=8)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    sys.exit(main())
