"""Pauses stay within their bounds; a budget is never overdrawn, whatever the calls do."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.client.retry import RetryBudget, RetryPolicy
from runtime.core.errors import UsageError


@given(
    calls=st.lists(st.integers(0, 5), max_size=300),
    budget=st.floats(0, 1),
    reserve=st.integers(0, 20),
)
def test_retries_never_exceed_the_reserve_and_the_share_of_calls(calls: list[int], budget: float, reserve: int) -> None:
    """`calls` says how many retries each call would like; the bound holds over every window of calls."""
    bucket = RetryBudget(RetryPolicy(budget=budget, reserve=reserve))
    granted = []
    for wanted in calls:
        bucket.earn()
        granted.append(sum(bucket.try_spend() for _ in range(wanted)))
    for start in range(len(calls)):
        window = granted[start:]
        assert sum(window) <= reserve + budget * len(window)


@given(budget=st.sampled_from([0.1, 0.2, 0.25, 0.5, 1.0]), num_calls=st.integers(0, 2000))
def test_what_was_earned_can_be_spent_to_the_last(budget: float, num_calls: int) -> None:
    bucket = RetryBudget(RetryPolicy(budget=budget, reserve=5))
    while bucket.try_spend():
        pass
    granted = 0
    for _ in range(num_calls):
        bucket.earn()
        granted += bucket.try_spend()
    assert granted == num_calls // round(1 / budget)


def test_threads_together_spend_no_more_than_there_is() -> None:
    bucket = RetryBudget(RetryPolicy(reserve=50, budget=0))
    taken = []

    def spend() -> None:
        taken.append(sum(bucket.try_spend() for _ in range(40)))

    threads = [threading.Thread(target=spend) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(taken) == 50


@given(
    num_attempts=st.integers(1, 10_000),
    drawn=st.floats(0, 1, exclude_max=True),
    base_s=st.floats(0, 10),
    factor=st.floats(1, 100),
)
def test_a_pause_is_drawn_below_its_bound(num_attempts: int, drawn: float, base_s: float, factor: float) -> None:
    policy = RetryPolicy(base_s=base_s, cap_s=base_s * factor)
    pause_s = policy.pause_s(num_attempts, drawn)
    assert 0 <= pause_s <= policy.cap_s
    if num_attempts == 1:
        assert pause_s == pytest.approx(drawn * base_s)


def test_pauses_double_until_the_cap() -> None:
    policy = RetryPolicy(base_s=0.1, cap_s=0.5)
    assert [policy.pause_s(number, 1.0) for number in (1, 2, 3, 4, 5)] == [0.1, 0.2, 0.4, 0.5, 0.5]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"max_attempts": 0}, "at least 1, the first attempt, but got 0"),
        ({"base_s": -1.0}, "base_s -1.0"),
        ({"base_s": 2.0, "cap_s": 1.0}, "base_s 2.0 and cap_s 1.0"),
        ({"base_s": float("nan")}, "base_s nan"),
        ({"cap_s": float("inf")}, "cap_s inf"),
        ({"budget": 1.5}, "within 0 and 1 retries per call but got 1.5"),
        ({"budget": float("nan")}, "but got nan"),
        ({"reserve": -1}, "at least 0 retries but got -1"),
    ],
)
def test_a_wrong_policy_is_refused(arguments: dict[str, float], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        RetryPolicy(**arguments)  # type: ignore[arg-type]
