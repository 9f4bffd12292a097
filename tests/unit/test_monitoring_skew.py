"""Training-serving skew and schema drift on counts whose truth is known."""

import math

import numpy as np
import pytest

from runtime.data.counts import Counts, Float64s
from runtime.data.encoding import Encoded, Encoding
from runtime.data.profile import Profile, build_profile
from runtime.monitoring.schema_drift import schema_drift
from runtime.monitoring.skew import LEVEL, skew_evidence, skewed_features

SHARES: dict[str, Float64s] = {"a": np.full(10, 0.1), "b": np.array([0.5, 0.3, 0.2])}
MARGINS = {"a": 0.0, "b": 0.0}


def test_the_evidence_is_a_martingale_under_the_null() -> None:
    """Its mean is 1, and it passes 1 / LEVEL in a share of LEVEL of the runs at most, looked at after each batch."""
    generator = np.random.default_rng(0)
    last, crossed, num_runs = [], 0, 400
    for _ in range(num_runs):
        seen = {name: np.zeros(shares.size) for name, shares in SHARES.items()}
        highest = -math.inf
        for _ in range(6):
            for name, shares in SHARES.items():
                seen[name] += generator.multinomial(5, shares)
            logs = list(skew_evidence(seen, SHARES, MARGINS).values())
            highest = max(highest, float(np.logaddexp.reduce(logs)) - math.log(len(logs)))
        crossed += highest >= math.log(1 / LEVEL)
        last.append(math.exp(float(np.logaddexp.reduce(logs)) - math.log(len(logs))))
    assert np.mean(last) == pytest.approx(1.0, abs=5 * float(np.std(last)) / math.sqrt(num_runs))
    assert crossed <= 12  # 4 allowed on average


def test_a_feature_that_differs_is_named_and_a_margin_forgives_little() -> None:
    generator = np.random.default_rng(1)
    seen = {
        "a": generator.multinomial(1000, SHARES["a"]).astype(float),
        "b": generator.multinomial(1000, [0.6, 0.25, 0.15]).astype(float),
    }
    assert skewed_features(skew_evidence(seen, SHARES, MARGINS)) == ["b"]
    assert skewed_features(skew_evidence(seen, SHARES, {"a": 0.1, "b": 0.1})) == []
    assert skewed_features({}) == []


ENCODING = Encoding(numeric=("wind",), categorical=("carrier",), vocabularies={"carrier": ("AA", "UA")})


def profile_and_counts(missing: float, beyond: float, unknown: float) -> tuple[Profile, Counts]:
    generator = np.random.default_rng(2)

    def draw(rows: int, missing: float, beyond: float, unknown: float) -> Encoded:
        values = generator.normal(0, 1, (rows, 1)).astype(np.float32)
        values[generator.random(rows) < beyond] = 99.0
        values[generator.random(rows) < missing] = np.nan
        known = generator.integers(2, 4, (rows, 1))
        return Encoded(numeric=values, categorical=np.where(generator.random((rows, 1)) < unknown, 1, known))

    profile = build_profile(draw(20_000, 0.05, 0.0, 0.0), ENCODING)
    live = draw(2_000, missing, beyond, unknown)
    counts = Counts.zero(1, profile.cardinalities)
    return profile, counts.merge(
        Counts(
            rows=2_000,
            numeric=profile.binning.count(live.numeric),
            moments=np.zeros((1, 3)),
            categorical=(np.bincount(live.categorical[:, 0], minlength=4),),
            score=counts.score,
            score_moments=counts.score_moments,
        )
    )


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ((0.05, 0.0, 0.0), []),
        ((0.3, 0.0, 0.0), [("wind", "missing")]),
        ((0.05, 0.1, 0.0), [("wind", "out of range")]),
        ((0.05, 0.0, 0.1), [("carrier", "unknown category")]),
    ],
)
def test_each_kind_of_change_is_told(shares: tuple[float, float, float], expected: list[tuple[str, str]]) -> None:
    found = schema_drift(*profile_and_counts(*shares))
    assert [(one.feature, one.kind) for one in found] == expected


def test_no_rows_or_other_features_say_nothing() -> None:
    profile, _ = profile_and_counts(0, 0, 0)
    assert schema_drift(profile, Counts.zero(1, profile.cardinalities)) == []
    assert schema_drift(profile, Counts.zero(2, [])) == []
