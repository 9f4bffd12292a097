import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.core.errors import ContractError
from runtime.data.accumulate import Accumulator
from runtime.data.counts import MISSING, NUM_CELLS, OVERFLOW, UNDERFLOW, Binning, Counts, Float32s, Float64s, Int64s
from runtime.data.encoding import Encoded, Encoding
from runtime.data.profile import Profile, build_profile, with_scores

ENCODING = Encoding(numeric=("x", "y", "z"), categorical=("kind",), vocabularies={"kind": ("a", "b")})
ROWS = 5000


def sample(rows: int = ROWS, seed: int = 0) -> tuple[Float32s, Int64s, Float64s]:
    random = np.random.default_rng(seed)
    numeric = random.normal(loc=[0, 1000, -3], scale=[1, 5, 0.1], size=(rows, 3)).astype(np.float32)
    numeric[random.random((rows, 3)) < 0.05] = np.nan
    return numeric, random.integers(0, 4, (rows, 1)), random.random(rows)


def profiled(rows: int = ROWS) -> Profile:
    numeric, categorical, scores = sample(rows)
    return build_profile(Encoded(numeric=numeric, categorical=categorical), ENCODING, scores)


def assert_same(one: Counts, other: Counts) -> None:
    assert one.rows == other.rows
    np.testing.assert_array_equal(one.numeric, other.numeric)
    np.testing.assert_array_equal(one.score, other.score)
    for a, b in zip(one.categorical, other.categorical, strict=True):
        np.testing.assert_array_equal(a, b)
    # Sums depend on their order in the last bits.
    np.testing.assert_allclose(one.moments, other.moments, rtol=1e-12)
    np.testing.assert_allclose(one.score_moments, other.score_moments, rtol=1e-12)


def test_cells_of_edges_and_outside() -> None:
    binning = Binning.between([0.0], [1.0])
    values = np.array([-1e38, -1e-6, 0, 0.5, 1.0, 1.1, 1e38, np.inf, -np.inf, np.nan], dtype=np.float32)
    cells = binning.cells(values.reshape(-1, 1))[:, 0]
    middle = [UNDERFLOW, UNDERFLOW, 1, 128, 256, OVERFLOW, OVERFLOW, OVERFLOW, UNDERFLOW, MISSING]
    assert cells.tolist() == middle


def test_a_bin_range_must_have_a_width() -> None:
    with pytest.raises(ContractError, match="low < high"):
        Binning.between([1.0], [1.0])


def test_profile_counts_every_row_once_per_feature() -> None:
    profile = profiled()
    numeric, categorical, _ = sample()
    counts = profile.counts
    assert counts.numeric.sum(axis=1).tolist() == [ROWS] * 3
    assert counts.categorical[0].tolist() == np.bincount(categorical[:, 0], minlength=4).tolist()
    assert counts.score.sum() == ROWS
    np.testing.assert_array_equal(counts.numeric[:, MISSING], np.isnan(numeric).sum(axis=0))
    np.testing.assert_allclose(counts.moments[:, 1] / counts.moments[:, 0], np.nanmean(numeric, axis=0), rtol=1e-5)
    # A quantile of 0.1 % leaves about five of five thousand below.
    assert (counts.numeric[:, UNDERFLOW] <= 6).all()
    assert (counts.numeric[:, OVERFLOW] <= 6).all()


def test_constant_and_empty_features_have_bins() -> None:
    numeric = np.array([[5.0, np.nan, 3e7]] * 10, dtype=np.float32)
    profile = build_profile(Encoded(numeric=numeric, categorical=np.zeros((10, 1), dtype=np.int64)), ENCODING)
    assert profile.counts.numeric[:, [UNDERFLOW, OVERFLOW]].sum() == 0
    assert profile.counts.numeric[:, MISSING].tolist() == [0, 10, 0]
    assert profile.counts.score.sum() == 0


def test_json_round_trip_is_exact() -> None:
    profile = profiled()
    again = Profile.from_json(json.loads(json.dumps(profile.to_json())))
    assert again == profile
    np.testing.assert_array_equal(again.binning.scale, profile.binning.scale)
    assert profiled(100) != profile
    with pytest.raises(ContractError, match="not a profile"):
        Profile.from_json({"numeric": []})


def test_with_scores_replaces() -> None:
    profile = with_scores(profiled(), np.full(7, 0.25))
    assert profile.counts.score.sum() == 7
    assert profile.counts.score_moments.tolist() == [7, 7 * 0.25, 7 * 0.0625]


@given(st.lists(st.integers(0, 40), max_size=12), st.integers(1, 37))
def test_accumulating_equals_counting_at_once(sizes: list[int], buffer_rows: int) -> None:
    profile = profiled()
    numeric, categorical, scores = sample(sum(sizes), seed=1)
    accumulator = Accumulator(profile, buffer_rows)
    start = 0
    for size in sizes:
        part = slice(start, start + size)
        accumulator.add(numeric[part], categorical[part], scores[part])
        start += size
    whole = Accumulator(profile, max(1, sum(sizes)))
    whole.add(numeric, categorical, scores)
    assert_same(accumulator.take(), whole.take())


def test_the_reference_accumulated_is_the_profile() -> None:
    profile = profiled()
    accumulator = Accumulator(profile)
    accumulator.add(*sample())
    assert_same(accumulator.take(), profile.counts)


def test_take_resets_and_parts_merge_exactly() -> None:
    profile = profiled()
    numeric, categorical, scores = sample(100, seed=2)
    accumulator = Accumulator(profile)
    accumulator.add(numeric[:60], categorical[:60], scores[:60])
    first = accumulator.take()
    assert accumulator.take().rows == 0
    accumulator.add(numeric[60:], categorical[60:], scores[60:])
    accumulator.add(numeric[:1], categorical[:1], scores[:1])
    merged = first.merge(accumulator.take())
    whole = Accumulator(profile)
    for part in (slice(0, 100), slice(0, 1)):
        whole.add(numeric[part], categorical[part], scores[part])
    assert_same(merged, whole.take())


def test_rows_that_are_laid_out_by_column_count_the_same() -> None:
    profile = profiled()
    numeric, categorical, scores = sample(3000, seed=4)
    numeric[::7, 0], numeric[5, 1], numeric[6, 2] = np.nan, 1e30, -1e30
    by_row, by_column = Accumulator(profile), Accumulator(profile)
    by_row.add(numeric, categorical, scores)
    by_column.add(np.asfortranarray(numeric), np.asfortranarray(categorical), scores)
    taken = by_row.take()
    assert_same(taken, by_column.take())
    np.testing.assert_array_equal(taken.numeric, profile.binning.count(numeric))
    for feature, cells in enumerate(profile.binning.cells(numeric).T):
        np.testing.assert_array_equal(taken.numeric[feature], np.bincount(cells, minlength=NUM_CELLS))


def test_the_callers_arrays_are_copied() -> None:
    profile = profiled()
    numeric, categorical, scores = sample(1, seed=3)
    accumulator, untouched = Accumulator(profile), Accumulator(profile)
    untouched.add(numeric.copy(), categorical.copy(), scores.copy())
    accumulator.add(numeric, categorical, scores)
    numeric[:], categorical[:], scores[:] = 0, 0, 0
    assert_same(accumulator.take(), untouched.take())


def test_counts_of_other_features_do_not_merge() -> None:
    with pytest.raises(ContractError, match="do not merge"):
        Counts.zero(2, [3]).merge(Counts.zero(2, [4]))
    assert Counts.zero(2, [3]).numeric.shape == (2, NUM_CELLS)


def test_a_buffer_needs_room() -> None:
    with pytest.raises(ContractError, match="at least 1 but got 0"):
        Accumulator(profiled(), 0)
