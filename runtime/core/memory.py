"""What a process asks of its allocator. Does nothing where malloc is not glibc's."""

import contextlib
import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of glibc's malloc.h."""
KEPT_BYTES = 256 * 1024 * 1024
LARGEST_KEPT_BYTES = 32 * 1024 * 1024
"""More glibc does not take for the second one."""


def keep_memory() -> None:
    """For who needs the same again at once, as the passes of a net do: what is freed stays with the process.

    By itself glibc may give it back, or not, as it happens to lie: a net with 2 MiB between its layers took 250 page
    faults a pass, and a tenth longer.
    """
    with contextlib.suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT_BYTES)


def give_memory_back() -> None:
    """For who needs much now and then: what is free goes back to the kernel, also what lies between things in use."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
