"""The bucket hash over a million keys of each kind, and what a rising share does to them."""

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.store.records import FULL_SHARE
from tests.serving_split import KINDS, Buckets, buckets_of, evenness

NUM_KEYS = 1_000_000
BAND = (1e-4, 1 - 1e-4)
"""Of the p-value. The keys are always the same, so this holds or does not."""


@pytest.fixture(scope="module", params=KINDS)
def keys(request: pytest.FixtureRequest) -> list[str]:
    made = KINDS[request.param](NUM_KEYS)
    assert len(set(made)) == NUM_KEYS
    return made


def test_a_million_keys_fill_the_buckets_as_chance_would(keys: list[str]) -> None:
    buckets = buckets_of(keys)
    assert BAND[0] < evenness(buckets) < BAND[1]
    # As few as a canary gets first, and of those who came first.
    for share in (1, 10, 100, 1000, 5000):
        expected = NUM_KEYS * share / FULL_SHARE
        assert abs((buckets < share).sum() - expected) < 5 * np.sqrt(expected)
        assert abs((buckets[:100_000] < share).sum() - expected / 10) < 5 * np.sqrt(expected / 10)


@pytest.mark.parametrize(
    "name", ["sum of bytes", "first bytes", "the number itself", "upper bits", "crc without its end"]
)
def test_the_band_refuses_a_poor_hash(name: str) -> None:
    texts = KINDS["integer"](NUM_KEYS)
    poor: dict[str, Buckets] = {
        "sum of bytes": np.array([sum(text.encode()) for text in texts]),
        "first bytes": np.array([int.from_bytes(text.encode()[:4]) for text in texts]),
        "the number itself": np.arange(NUM_KEYS),
        "upper bits": buckets_of(texts) // 4 * 4,
        "crc without its end": np.array([zlib.crc32(text.encode()[:-1]) for text in texts]),
    }
    assert not BAND[0] < evenness(poor[name] % FULL_SHARE) < BAND[1]


@settings(max_examples=25)
@given(st.lists(st.integers(0, FULL_SHARE), min_size=2, max_size=12))
def test_a_rising_share_never_moves_a_key_back(shares: list[int]) -> None:
    before = np.zeros(NUM_KEYS, dtype=np.bool_)
    for share in sorted(shares):
        green = np.less(SOME_BUCKETS, share)
        assert not (before & ~green).any()
        assert abs(green.sum() - NUM_KEYS * share / FULL_SHARE) < 3000
        before = green


SOME_BUCKETS = buckets_of(f"customer/{index}" for index in range(NUM_KEYS))
