"""What a replica asks of the Python interpreter, so that nothing but its own work holds up an answer."""

import gc
import sys

SWITCH_INTERVAL_S = 0.0005
FULL_COLLECTION_EVERY = 100
"""Collections of the middle generation between two of everything; Python's own is 10."""


def share_turns() -> None:
    """While another thread computes (one writes the log), the event loop waits this long for its turn, not 5 ms."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)


def settle_garbage() -> None:
    """Call it once all is loaded and warm.

    What exists now stays for good, and the collector need not walk it again: some 500,000 objects of Ray and torch,
    walked every few seconds under load, as answers waiting for the log grow old meanwhile. That took 100 to 400 ms, in
    which the replica answered nobody.
    """
    gc.collect()
    gc.freeze()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, FULL_COLLECTION_EVERY)
