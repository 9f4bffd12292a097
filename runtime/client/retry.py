"""When to try again, and how often at most. Knows neither HTTP nor sockets."""

import threading
from dataclasses import dataclass

from runtime.core.errors import UsageError

TOKEN = 1_000_000
"""The budget counts in millionths of a retry: whole numbers, so that tenths never add up to more than they should."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RetryPolicy:
    """Pauses grow from `base_s`, doubled each time, to `cap_s`; each is drawn evenly from zero to that ("full jitter").

    All calls of one client share a budget: at most `reserve` retries, and `budget` more for each call made. So a server
    that fails everything meets at most `budget` more load than without retries, however many callers there are.
    """

    max_attempts: int = 4
    base_s: float = 0.05
    cap_s: float = 1.0
    budget: float = 0.1
    reserve: int = 10

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise UsageError(f"max_attempts must be at least 1, the first attempt, but got {self.max_attempts}")
        if not 0 <= self.base_s <= self.cap_s < float("inf"):
            raise UsageError(f"0 <= base_s <= cap_s must hold but got base_s {self.base_s} and cap_s {self.cap_s}")
        if not 0 <= self.budget <= 1:
            raise UsageError(f"budget must be within 0 and 1 retries per call but got {self.budget}")
        if self.reserve < 0:
            raise UsageError(f"reserve must be at least 0 retries but got {self.reserve}")

    def pause_s(self, num_attempts: int, drawn: float) -> float:
        """The pause after so many attempts; `drawn` is evenly distributed in [0, 1)."""
        # Beyond 2**60 any base has reached its cap, and the power would overflow a float.
        return drawn * min(self.cap_s, self.base_s * 2.0 ** min(num_attempts - 1, 60))


DEFAULT_RETRIES = RetryPolicy()
NO_RETRIES = RetryPolicy(max_attempts=1)


class RetryBudget:
    """A bucket that calls fill and retries empty; full at the start. Safe to share between threads."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._income = int(policy.budget * TOKEN)
        self._limit = policy.reserve * TOKEN
        self._balance = self._limit
        self._lock = threading.Lock()

    def earn(self) -> None:
        """A call begins."""
        with self._lock:
            self._balance = min(self._limit, self._balance + self._income)

    def try_spend(self) -> bool:
        """Whether one more retry fits; if so it is taken."""
        with self._lock:
            if self._balance < TOKEN:
                return False
            self._balance -= TOKEN
            return True
