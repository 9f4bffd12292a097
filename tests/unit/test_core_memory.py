"""What is asked of glibc, in a process of its own: it holds for all that comes after."""

import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc is not glibc's")


PASSES = """
import resource, threading
import numpy as np
from runtime.core.memory import keep_memory

keep_memory()
faults = []

def run():
    for number in range(50):
        layers = [np.ones(1 << 19) for _ in range(8)]
        del layers
        faults.append(resource.getrusage(resource.RUSAGE_THREAD).ru_minflt)

thread = threading.Thread(target=run)
thread.start()
thread.join()
run()
for of_thread in (faults[:50], faults[50:]):
    # 32 MiB are 8,192 pages, which glibc by itself would take anew each time.
    assert of_thread[-1] - of_thread[0] < 8192, of_thread
"""


def test_what_a_pass_frees_serves_the_next_one() -> None:
    subprocess.run([sys.executable, "-c", PASSES], check=True, timeout=60)


PIECES = """
from pathlib import Path
from runtime.core.memory import give_memory_back

def resident_mib():
    return int(Path("/proc/self/statm").read_text().split()[1]) / 256

pieces = [bytearray(8192) for _ in range(20_000)]
kept = pieces[::100]
full = resident_mib()
del pieces
assert resident_mib() > full - 80, "it lies between what is in use, so by itself it stays"
give_memory_back()
assert resident_mib() < full - 100
"""


def test_what_lies_free_between_things_in_use_goes_back() -> None:
    subprocess.run([sys.executable, "-c", PIECES], check=True, timeout=60)
