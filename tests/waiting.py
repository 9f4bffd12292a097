"""Wait for a state, with a limit; never for a time."""

import time
from collections.abc import Callable
from typing import TypeVar

State = TypeVar("State")
INTERVAL_S = 0.05


def wait_until(read: Callable[[], State], *, timeout_s: float) -> State:
    """The first true value that `read` gives; AssertionError with the last one after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not (state := read()):
        assert time.monotonic() < deadline, f"still {state!r} after {timeout_s:g} s"
        time.sleep(INTERVAL_S)
    return state
