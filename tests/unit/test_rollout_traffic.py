"""Shifting and rolling back on the store alone."""

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.core.errors import UnreachableError, UsageError
from runtime.rollout import traffic
from runtime.store.rollouts import RolloutStore
from tests.rollout_world import open_store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RolloutStore]:
    store = open_store(tmp_path)
    yield store
    store.close()


@pytest.mark.parametrize(("text", "share"), [("0", 0), ("10", 1000), ("12.5", 1250), ("33.33%", 3333), ("100", 10_000)])
def test_percentages_become_basis_points(text: str, share: int) -> None:
    assert traffic.parse_percent(text) == share


@pytest.mark.parametrize("text", ["-1", "101", "ten", "", "nan", "inf", "0.001"])
def test_other_percentages_are_refused_by_name(text: str) -> None:
    with pytest.raises(UsageError, match="share"):
        traffic.parse_percent(text)


def test_a_shift_to_what_is_already_there_writes_nothing(store: RolloutStore) -> None:
    first, is_new = traffic.shift(store, "flights", 1000, actor="ann")
    assert is_new
    assert traffic.shift(store, "flights", 1000, actor="ann") == (first, False)


def test_a_rollback_by_percentage_keeps_the_rest(store: RolloutStore) -> None:
    traffic.shift(store, "flights", 5000, actor="ann")
    state, is_new = traffic.rollback(store, "flights", 1000, actor="ann", reason="errors")
    assert (state.share, is_new) == (1000, True)
    assert store.transitions()[-1].action == "rollback"
    assert store.transitions()[-1].detail["reason"] == "errors"


def test_a_rollback_upwards_is_refused(store: RolloutStore) -> None:
    traffic.shift(store, "flights", 1000, actor="ann")
    with pytest.raises(UsageError, match="a rollback to 50 % would give it more"):
        traffic.rollback(store, "flights", 5000, actor="ann")
    assert store.endpoint("flights").share == 1000


def test_waiting_ends_when_every_live_edge_has_the_generation(store: RolloutStore) -> None:
    state, _ = traffic.shift(store, "flights", 1000, actor="ann")
    store.acknowledge("dead", {"flights": 1}, at=time.time() - 3600)
    store.acknowledge("alive", {"flights": state.generation}, at=time.time())
    assert traffic.wait_acknowledged(store, state, timeout_s=1) < 1


def test_waiting_names_the_edge_that_is_behind(store: RolloutStore) -> None:
    state, _ = traffic.shift(store, "flights", 1000, actor="ann")
    store.acknowledge("slow", {"flights": state.generation - 1}, at=time.time())
    with pytest.raises(UnreachableError, match="edge slow has not acknowledged"):
        traffic.wait_acknowledged(store, state, timeout_s=0.05)


def test_waiting_says_which_edge_is_lost_until_when_and_which_follow(store: RolloutStore) -> None:
    state, _ = traffic.shift(store, "flights", 1000, actor="ann")
    store.acknowledge("lost", {"flights": 1}, at=time.time() - 4)
    store.acknowledge("busy", {"flights": 1}, at=time.time())
    store.acknowledge("near", {"flights": state.generation}, at=time.time())
    with pytest.raises(UnreachableError) as raised:
        traffic.wait_acknowledged(store, state, timeout_s=0.05)
    text = str(raised.value)
    assert "edge busy has not acknowledged it within 0.05 s though it lives" in text
    assert re.search(r"edge lost has not .*: silent for 4\.\d s, it counts as gone in 5\.\d s at the latest", text)
    assert "; edge near applies it; see `teal status`" in text


def test_waiting_without_any_edge_says_so(store: RolloutStore) -> None:
    with pytest.raises(UnreachableError, match="no live edge has"):
        traffic.wait_acknowledged(store, store.endpoint("flights"), timeout_s=0.05)
