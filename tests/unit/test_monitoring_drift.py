"""Drift figures against scipy and against shifts of known size."""

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import jensenshannon

from runtime.core.errors import ContractError
from runtime.data.accumulate import Accumulator
from runtime.data.counts import Counts, Float64s
from runtime.data.encoding import Encoded, Encoding
from runtime.data.profile import Profile, build_profile
from runtime.monitoring import drift

ENCODING = Encoding(numeric=("wind", "heat"), categorical=("carrier",), vocabularies={"carrier": ("AA", "DL", "UA")})


def draw(seed: int, num_rows: int, *, shift: float = 0.0, missing: float = 0.1) -> tuple[Encoded, Float64s]:
    generator = np.random.default_rng(seed)
    numeric = generator.normal([shift, 20.0], [1.0, 5.0], (num_rows, 2)).astype(np.float32)
    numeric[generator.random(num_rows) < missing, 1] = np.nan
    categorical = generator.choice([2, 3, 4], num_rows, p=[0.5, 0.3, 0.2]).reshape(-1, 1).astype(np.int64)
    return Encoded(numeric=numeric, categorical=categorical), generator.beta(2, 6, num_rows)


def make_profile(num_rows: int = 50_000) -> Profile:
    encoded, scores = draw(0, num_rows)
    return build_profile(encoded, ENCODING, scores)


def count(profile: Profile, encoded: Encoded, scores: Float64s) -> Counts:
    accumulator = Accumulator(profile)
    accumulator.add(encoded.numeric, encoded.categorical, scores)
    return accumulator.take()


def test_a_shift_of_one_deviation_is_found_first_and_measured() -> None:
    profile = make_profile()
    report = drift.drift_report(profile, count(profile, *draw(1, 20_000, shift=1.0)))
    wind = report[0]
    assert wind.feature == "wind"
    assert wind.wasserstein == pytest.approx(1.0, abs=0.05)
    assert wind.psi == pytest.approx(1.0, abs=0.15)  # both divergences of N(0,1) and N(1,1) are 1/2
    assert all(found.psi < 0.01 for found in report[1:])
    assert {found.feature for found in report} == {"wind", "heat", "carrier", "score"}


def test_psi_without_drift_is_about_what_is_said() -> None:
    profile = make_profile()
    seen, said = [], []
    for seed in range(60):
        report = {found.feature: found for found in drift.drift_report(profile, count(profile, *draw(100 + seed, 400)))}
        seen.append(report["wind"].psi)
        said.append(report["wind"].psi_without_drift)
    assert np.mean(seen) == pytest.approx(np.mean(said), rel=0.2)


def test_categories_that_nobody_has_add_nothing_to_the_psi_of_few_rows() -> None:
    profile = make_profile()
    reports = [drift.drift_report(profile, count(profile, *draw(500 + seed, 60))) for seed in range(200)]
    found = [one for report in reports for one in report if one.feature == "carrier"]  # none is missing or unknown
    assert np.mean([one.psi for one in found]) == pytest.approx(
        np.mean([one.psi_without_drift for one in found]), rel=0.3
    )


def test_missing_values_are_a_cell_of_their_own() -> None:
    profile = make_profile()
    report = {
        found.feature: found for found in drift.drift_report(profile, count(profile, *draw(2, 20_000, missing=0.5)))
    }
    assert report["heat"].missing_share == pytest.approx(0.5, abs=0.02)
    assert report["heat"].reference_missing_share == pytest.approx(0.1, abs=0.01)
    assert report["heat"].psi > 0.5
    assert report["wind"].psi < 0.01


def test_unseen_categories_and_a_changed_mix_are_seen() -> None:
    profile = make_profile()
    encoded, scores = draw(3, 10_000)
    changed = Encoded(numeric=encoded.numeric, categorical=np.where(encoded.categorical == 2, 1, encoded.categorical))
    report = drift.drift_report(profile, count(profile, changed, scores))
    assert report[0].feature == "carrier"
    assert report[0].wasserstein is None
    assert report[0].psi > 2


def test_values_beyond_the_reference_are_counted_at_its_end() -> None:
    profile = make_profile()
    report = drift.drift_report(profile, count(profile, *draw(4, 5_000, shift=50.0)))
    assert report[0].feature == "wind"
    assert report[0].jensen_shannon > 0.8  # all in the reference's highest twentieth
    assert report[0].psi > 5


def test_cells_hold_near_equal_reference_mass() -> None:
    profile = make_profile()
    reference, _ = drift.fold_numeric(profile.counts.numeric[0], profile.counts.numeric[0])
    assert 18 <= reference.size <= drift.NUM_FOLDED + 1
    assert reference[-1] == 0  # nothing missing
    shares = reference[:-1] / reference.sum()
    assert 0.03 < shares.min() <= shares.max() < 0.08


def test_rare_categories_are_compared_as_one_but_other_and_missing_are_kept() -> None:
    reference = np.array([0, 0, 900, 100, 1, 2, 3], dtype=np.int64)
    folded, live = drift.fold_categorical(reference, np.array([5, 6, 1, 1, 1, 1, 1], dtype=np.int64))
    assert folded.tolist() == [0, 0, 900, 100, 6]
    assert live.tolist() == [5, 6, 1, 1, 3]


def test_distances_agree_with_scipy() -> None:
    generator = np.random.default_rng(5)
    one, other = generator.integers(0, 50, (2, 258)).astype(np.int64)
    assert drift.jensen_shannon(one.astype(float), other.astype(float)) == pytest.approx(
        jensenshannon(one, other, base=2) ** 2
    )
    places = np.clip(np.arange(258), 1, 256)
    assert drift.wasserstein(one, other, 0.5) == pytest.approx(
        stats.wasserstein_distance(places, places, one, other) * 0.5
    )


def test_no_rows_give_no_report_and_other_features_are_refused() -> None:
    profile = make_profile(1000)
    assert drift.drift_report(profile, Counts.zero(2, [5])) == []
    with pytest.raises(ContractError, match="do not fit a profile"):
        drift.drift_report(profile, Counts.zero(3, [5]))


def test_a_constant_feature_has_no_distance_and_no_psi() -> None:
    encoded, _ = draw(6, 1000)
    constant = Encoded(numeric=np.full_like(encoded.numeric, 7.0), categorical=encoded.categorical)
    profile = build_profile(constant, ENCODING)
    report = {found.feature: found for found in drift.drift_report(profile, profile.counts)}
    assert report["wind"].wasserstein is None
    assert report["wind"].psi == pytest.approx(0.0)
    assert "score" not in report
