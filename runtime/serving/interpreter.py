"""What a replica asks of its interpreter and allocator, so that nothing but its own work holds up an answer."""

import contextlib
import ctypes
import gc
import sys

SWITCH_INTERVAL_S = 0.0005
FULL_COLLECTION_EVERY = 100
"""Collections of the middle generation between two of everything; Python's own is 10."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of glibc's malloc.h."""
KEPT_BYTES = 256 * 1024 * 1024
LARGEST_KEPT_BYTES = 32 * 1024 * 1024
"""More glibc does not take for the second one."""


def keep_memory() -> None:
    """What a pass of the model frees is used by the next one, and not given back to the kernel in between.

    By itself glibc may give them back, or not, as they happen to lie: a net with 2 MiB between its layers took 250 page
    faults a pass, and a tenth longer. Does nothing where malloc is not glibc's.
    """
    with contextlib.suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT_BYTES)


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
