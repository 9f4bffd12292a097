"""Live drift, simulated: false alarms against the budget and ticks to find a shift, beside what others do by default.

30 normal features; each run draws its own reference of 10,000 rows, profiled and folded as in the product. Counts of a
tick are multinomial draws with the exact cell probabilities of the true distribution, which is what counting fresh rows
gives. The others see raw rows. Then the control charts' run lengths against the textbook.
"""

import argparse
import functools
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import special, stats

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import drift_flights  # noqa: E402
from benchmarks.result import Figure, report  # noqa: E402
from runtime.data.counts import Binning, Float32s, Float64s, Int64s  # noqa: E402
from runtime.data.encoding import Encoded, Encoding  # noqa: E402
from runtime.data.profile import Profile, build_profile  # noqa: E402
from runtime.monitoring.detector import DetectorConfig, DriftDetector, log_mean, reference_probabilities  # noqa: E402
from runtime.monitoring.drift import fold_numeric, psi  # noqa: E402
from runtime.monitoring.stream import (  # noqa: E402
    Adwin,
    Cusum,
    Ewma,
    PageHinkley,
    Shewhart,
    StreamDetector,
)

SEED = 20260
NUM_FEATURES = 30
NUM_REFERENCE_ROWS = 10_000
NUM_ROWS = 1_000
MONTH_TICKS = 30 * 24 * 360
"""Ticks of 10 s in 30 days: the budget."""
SHORT_BUDGET_TICKS = 50
"""A budget that a simulation can outlast."""
LOOSE_TICKS = 1_000
"""An earlier simulation's delays, the brackets below, do not say at which budget; at this one they come out again."""
WARM_TICKS = 30
ENCODING = Encoding(numeric=tuple(f"x{i}" for i in range(NUM_FEATURES)), categorical=(), vocabularies={})
DELAY_BRACKETS = {
    ("quarter", 0.005): 3.0,
    ("quarter", 0.01): 8.0,
    ("quarter", 0.02): 8.0,
    ("half", 0.01): 2.0,
    ("half", 0.02): 2.0,
    ("half", 0.05): 3.0,
}
"""Most ticks by size of the shift and margin."""
SHIFTS = {"quarter": 0.25, "half": 0.5}
TEXTBOOK = {
    "shewhart": (370.4, 0.0),
    "cusum": (465.0, 0.0),
    "ewma": (500.0, 0.0),
    "cusum_one_sd": (10.4, 1.0),
    "ewma_one_sd": (10.3, 1.0),
}
"""Mean run length and the shift of the stream: Montgomery, 8th ed., ch. 6 and 9; Lucas & Saccucci 1990."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Runs:
    """References of several runs as one detector's features, run by run, padded to equal numbers of cells."""

    num_runs: int
    num_cells: dict[str, int]
    reference: dict[str, Float64s]
    """What the product knows: shares of the sample."""
    truth: Callable[[float, int], Float64s]
    """[features, cells] true probabilities when the first `int` features of every run have moved by `float`."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer runs: for a look, not for a record")
    parser.add_argument("--json", type=Path, help="write the document here")
    arguments = parser.parse_args()
    is_quick = arguments.quick
    num_runs, num_ticks, num_repeats, num_charts = (12, 150, 20, 1500) if is_quick else (72, 1500, 100, 6000)
    started = time.monotonic()
    runs = draw_runs(num_runs, seed=SEED)
    say(started, "references drawn")
    false_alarms = measure_false_alarms(runs, num_ticks)
    say(started, "false alarms measured")
    delays = measure_delays(runs)
    say(started, "delays measured")
    others = {str(rows): measure_others(rows, num_repeats) for rows in (100, NUM_ROWS)}
    say(started, "other rules measured")
    lengths = {name: measure_run_length(name, shift, num_charts) for name, (_, shift) in TEXTBOOK.items()}
    say(started, "control charts measured")
    flights = drift_flights.measure_flights() if drift_flights.is_available() else None
    disagreements = compare_with_river()
    say(started, "flights and river compared")
    figures = [
        Figure(name=name, value=value, unit=unit, target=target, op=">=" if name.startswith("run_length") else "<=")
        for name, value, unit, target in (
            ("run_length_over_budget", false_alarms["margin_0.01"]["run_length_over_budget"], "ratio", 1.0),
            ("run_length_over_budget_no_margin", false_alarms["exact"]["run_length_over_budget"], "ratio", 1.0),
            ("false_alarms_month_budget", false_alarms["month"]["false_alarms"], "alarms", 0.0),
            ("first_alarm_without_margin", false_alarms["sampled"]["median_first_alarm"], "ticks", None),
        )
    ]
    for budget, suffix in ((MONTH_TICKS, "_ticks"), (LOOSE_TICKS, "_ticks_at_1000")):
        for (size, margin), target in DELAY_BRACKETS.items():
            name = f"delay_{size}_sd" + (f"_margin_{margin:g}" if margin != 0.01 else "") + suffix
            value = delays[f"{size}_{margin:g}_{budget}"]["median"]
            figures.append(Figure(name=name, value=value, unit="ticks", target=target, op="<="))
    wrong = [delay["wrong_culprit_share"] for delay in delays.values()]
    figures.append(Figure(name="wrong_culprit_share", value=max(wrong), unit="share", target=0.02, op="<="))
    for name, (expected, _) in TEXTBOOK.items():
        error = abs(lengths[name]["mean"] / expected - 1)
        figures.append(Figure(name=f"{name}_textbook_error", value=error, unit="share", target=0.05, op="<="))
    if flights is not None:
        alarms = flights["false_alarms"]
        figures.append(Figure(name="flights_false_alarms", value=alarms, unit="alarms", target=0.0, op="<="))
    for name, number in disagreements.items():
        figures.append(Figure(name=f"{name}_river_disagreements", value=number, unit="streams", target=0.0, op="<="))
    for name, shares in others[str(NUM_ROWS)].items():
        false_alarm_share = shares["false_alarm_share"]
        figures.append(
            Figure(name=f"{name}_false_alarms", value=false_alarm_share, unit="per tick", target=None, op="<=")
        )
    raw = {
        "setting": {"seed": SEED, "features": NUM_FEATURES, "reference": NUM_REFERENCE_ROWS, "rows": NUM_ROWS},
        "false_alarms": false_alarms,
        "delays": delays,
        "others_by_rows_per_tick": others,
        "control_charts": lengths,
        "flights": flights,
        "seconds": time.monotonic() - started,
    }
    return report("drift_statistics", figures, raw, arguments.json)


def say(started: float, what: str) -> None:
    print(f"{time.monotonic() - started:6.1f} s  {what}", file=sys.stderr)


# -- the e-detector ----------------------------------------------------------------------------------------------------


def draw_runs(num_runs: int, *, seed: int) -> Runs:
    generator = np.random.default_rng(seed)
    profiles = [draw_profile(generator)[0] for _ in range(num_runs)]
    folded = [[fold_numeric(counts, counts)[0] for counts in profile.counts.numeric] for profile in profiles]
    names = [f"{run}:{feature}" for run in range(num_runs) for feature in range(NUM_FEATURES)]
    cells = dict(zip(names, (cells for by_feature in folded for cells in by_feature), strict=True))
    width = max(counts.size for counts in cells.values())

    @functools.cache
    def truth(shift: float, num_moved: int) -> Float64s:
        found = np.zeros((len(names), width))
        for run, profile in enumerate(profiles):
            for feature in range(NUM_FEATURES):
                moved_by = shift if feature < num_moved else 0.0
                shares = fold_numeric(profile.counts.numeric[feature], true_shares(profile, feature, moved_by))[1]
                found[run * NUM_FEATURES + feature, : shares.size] = shares
        return found

    return Runs(
        num_runs=num_runs,
        num_cells={name: counts.size for name, counts in cells.items()},
        reference=reference_probabilities(cells),
        truth=truth,
    )


def draw_profile(generator: np.random.Generator) -> tuple[Profile, Float32s]:
    values = generator.standard_normal((NUM_REFERENCE_ROWS, NUM_FEATURES), dtype=np.float32)
    encoded = Encoded(numeric=values, categorical=np.zeros((NUM_REFERENCE_ROWS, 0), dtype=np.int64))
    return build_profile(encoded, ENCODING), values


def true_shares(profile: Profile, feature: int, shift: float) -> Any:
    """[259] probabilities of a normal that has moved by `shift`."""
    edges = np.linspace(profile.low[feature], profile.high[feature], 257)
    below = stats.norm.cdf(np.concatenate([[-math.inf], edges, [math.inf]]) - shift)
    return np.append(np.diff(below), 0.0)


def draw_ticks(runs: Runs, truth: Float64s, generator: np.random.Generator, rows: int) -> Iterator[dict[str, Float64s]]:
    sizes = list(runs.num_cells.items())
    while True:
        counts = generator.multinomial(rows, truth).astype(np.float64)
        yield {name: counts[index, :size] for index, (name, size) in enumerate(sizes)}


def evidence_by_run(detector: DriftDetector, num_runs: int) -> Float64s:
    """[runs] logs of the mean over each run's features and all decays."""
    logs = detector.log_m
    return log_mean(logs.reshape(logs.shape[0], num_runs, NUM_FEATURES), axis=(0, 2))


def measure_false_alarms(runs: Runs, num_ticks: int) -> dict[str, dict[str, float]]:
    """Every run stops at its alarm; without one it counts with all its ticks (the exponential's censored estimate)."""
    exact_truth = runs.truth(0.0, 0)
    sizes = enumerate(runs.num_cells.items())
    exact = {name: np.maximum(exact_truth[index, :size], 1e-12) for index, (name, size) in sizes}
    cases = {
        "margin_0.01": (0.01, SHORT_BUDGET_TICKS, runs.reference),
        "month": (0.01, MONTH_TICKS, runs.reference),
        "exact": (0.0, SHORT_BUDGET_TICKS, exact),
        "sampled": (0.0, MONTH_TICKS, runs.reference),
    }
    detectors = {
        name: DriftDetector(DetectorConfig(budget_ticks=MONTH_TICKS, margin=margin), runs.num_cells)
        for name, (margin, _, _) in cases.items()
        if name != "month"
    }
    lengths = {name: np.full(runs.num_runs, num_ticks + 1) for name in cases}
    ticks = draw_ticks(runs, exact_truth, np.random.default_rng(SEED + 1), NUM_ROWS)
    for tick in range(1, num_ticks + 1):
        counts = next(ticks)
        watched = [name for name in cases if (lengths[name] > tick).any()]
        for name, detector in detectors.items():
            if name in watched or (name == "margin_0.01" and "month" in watched):
                detector.update(counts, cases[name][2])
        for name in watched:
            budget = cases[name][1]
            evidence = evidence_by_run(detectors["margin_0.01" if name == "month" else name], runs.num_runs)
            lengths[name] = np.where((evidence >= math.log(budget)) & (lengths[name] > tick), tick, lengths[name])
    found = {}
    for name, (_, budget, _) in cases.items():
        alarms = int((lengths[name] <= num_ticks).sum())
        ticks_watched = int(np.minimum(lengths[name], num_ticks).sum())
        found[name] = {
            "false_alarms": float(alarms),
            "ticks_watched": float(ticks_watched),
            "budget_ticks": float(budget),
            "run_length_over_budget": ticks_watched / max(alarms, 1) / budget,
            "median_first_alarm": float(np.median(lengths[name])),
        }
    return found


def measure_delays(runs: Runs) -> dict[str, dict[str, float]]:
    """Ticks from the shift of one of the features to the alarm, the tick of the shift being the first."""
    found = {}
    budgets = (MONTH_TICKS, LOOSE_TICKS)
    for size, shift in SHIFTS.items():
        margins = [margin for name, margin in DELAY_BRACKETS if name == size]
        detectors = {
            margin: DriftDetector(DetectorConfig(budget_ticks=MONTH_TICKS, margin=margin), runs.num_cells)
            for margin in margins
        }
        generator = np.random.default_rng(SEED + 2)
        cases = [(margin, budget) for margin in margins for budget in budgets]
        delays = {case: np.full(runs.num_runs, math.inf) for case in cases}
        wrong = dict.fromkeys(cases, 0)
        calm, moved = (draw_ticks(runs, runs.truth(s, n), generator, NUM_ROWS) for s, n in ((0.0, 0), (shift, 1)))
        for tick in range(-WARM_TICKS + 1, 31):
            counts = next(moved if tick > 0 else calm)
            for margin, detector in detectors.items():
                detector.update(counts, runs.reference)
                evidence = evidence_by_run(detector, runs.num_runs)
                by_feature = log_mean(detector.log_m, axis=0).reshape(runs.num_runs, NUM_FEATURES)
                for budget in budgets:
                    is_first = (evidence >= math.log(budget)) & np.isinf(delays[margin, budget])
                    delays[margin, budget][is_first] = tick
                    wrong[margin, budget] += int((is_first & (by_feature.argmax(axis=1) != 0)).sum())
        for margin, budget in cases:
            seen = delays[margin, budget]
            found[f"{size}_{margin:g}_{budget}"] = {
                "median": float(np.median(seen)),
                "p90": float(np.quantile(seen, 0.9, method="higher")),
                "alarms_before_shift": float((seen <= 0).sum()),
                "wrong_culprit_share": wrong[margin, budget] / runs.num_runs,
            }
    return found


# -- what others do by default -----------------------------------------------------------------------------------------


def measure_others(rows: int, num_repeats: int) -> dict[str, dict[str, float]]:
    """Share of ticks that raise an alarm by each rule: without any shift, and with one feature moved."""
    generator = np.random.default_rng(SEED + 3)
    profile, reference = draw_profile(generator)
    expected = np.sort(reference.astype(np.float64), axis=0)
    found: dict[str, dict[str, float]] = {}
    for column, shift in (("false_alarm_share", 0.0), ("quarter_sd_share", 0.25), ("half_sd_share", 0.5)):
        alarms: dict[str, int] = {}
        for _ in range(num_repeats):
            live = generator.standard_normal((rows, NUM_FEATURES))
            live[:, 0] += shift
            for name, is_alarm in judge(profile, expected, live).items():
                alarms[name] = alarms.get(name, 0) + is_alarm
        for name, number in alarms.items():
            found.setdefault(name, {})[column] = number / num_repeats
    return found


def judge(profile: Profile, expected: Float64s, live: Float64s) -> dict[str, bool]:
    """Each rule's verdict on one tick, every feature looked at.

    Evidently's defaults for a reference of more than 1,000 rows: a numeric column drifts at a Wasserstein distance of
    .1 reference deviations or more, a data set when half of its columns do
    (https://docs.evidentlyai.com/reference/data-drift-algorithm; stattests/wasserstein_distance_norm.py).
    """
    distances, p_values, indices = [], [], []
    seen = profile_counts(profile, live)
    for feature in range(NUM_FEATURES):
        a, b = expected[:, feature], np.sort(live[:, feature])
        p_value, distance = compare_samples(a, b)
        p_values.append(p_value)
        distances.append(distance / a.std())
        indices.append(psi(*fold_numeric(profile.counts.numeric[feature], seen[feature])))
    ordered = np.sort(p_values)
    return {
        "evidently_column": max(distances) >= 0.1,
        "evidently_dataset": float(np.mean(np.array(distances) >= 0.1)) >= 0.5,
        "psi_above_0.2": max(indices) > 0.2,
        "ks_5_percent": bool(ordered[0] < 0.05),
        "bh_5_percent": bool((ordered <= 0.05 * np.arange(1, NUM_FEATURES + 1) / NUM_FEATURES).any()),
    }


def profile_counts(profile: Profile, live: Float64s) -> Int64s:
    return Binning.between(profile.low, profile.high).count(live.astype(np.float32))


def compare_samples(a: Float64s, b: Float64s) -> tuple[float, float]:
    """Two-sided asymptotic Kolmogorov-Smirnov p value and Wasserstein distance of two sorted samples."""
    both = np.sort(np.concatenate([a, b]), kind="stable")
    gaps = np.abs(np.searchsorted(a, both, side="right") / a.size - np.searchsorted(b, both, side="right") / b.size)
    p_value = special.kolmogorov(gaps.max() * math.sqrt(a.size * b.size / (a.size + b.size)))
    return float(p_value), float((gaps[:-1] * np.diff(both)).sum())


# -- control charts ----------------------------------------------------------------------------------------------------


def measure_run_length(name: str, shift: float, num_alarms: int) -> dict[str, float]:
    charts: dict[str, StreamDetector] = {
        "shewhart": Shewhart(mean=0.0, deviation=1.0),
        "cusum": Cusum(mean=0.0, deviation=1.0),
        "ewma": Ewma(mean=0.0, deviation=1.0),
    }
    chart = charts[name.partition("_")[0]]
    generator = np.random.default_rng(SEED + 4)
    lengths: list[int] = []
    length = 0
    while len(lengths) < num_alarms:
        for value in generator.normal(shift, 1.0, 20_000).tolist():
            length += 1
            if chart.update(value):
                lengths.append(length)
                length = 0
    return {
        "mean": float(np.mean(lengths)),
        "standard_error": float(np.std(lengths) / math.sqrt(len(lengths))),
        "alarms": float(len(lengths)),
    }


def compare_with_river() -> dict[str, float]:
    """Of 20 streams that change: those whose first alarm differs from river's, for ADWIN by more than two checks."""
    from river import drift

    river: Any = drift
    found = {"page_hinkley": 0.0, "adwin": 0.0}
    for seed in range(20):
        generator = np.random.default_rng(SEED + 5 + seed)
        values = np.concatenate([generator.normal(0.4, 0.1, 1_500), generator.normal(0.5, 0.1, 1_500)]).tolist()
        pairs: dict[str, tuple[StreamDetector, Any, int]] = {
            "page_hinkley": (PageHinkley(limit=5.0), river.PageHinkley(threshold=5.0), 0),
            "adwin": (Adwin(), river.ADWIN(), 64),
        }
        for name, (ours, theirs, tolerance) in pairs.items():
            first = next((index for index, value in enumerate(values) if ours.update(value)), -1)
            rivers = next((index for index, value in enumerate(values) if _update(theirs, value)), -1)
            found[name] += abs(first - rivers) > tolerance
    return found


def _update(detector: Any, value: float) -> bool:
    detector.update(value)
    return bool(detector.drift_detected)


if __name__ == "__main__":
    sys.exit(main())
