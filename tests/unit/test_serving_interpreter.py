"""What a replica asks of its interpreter, in a process of its own: it holds for all that comes after."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import gc, sys, time
from runtime.serving.interpreter import settle_garbage, share_turns

loaded = [[str(number)] for number in range(500_000)]

def seconds_of_a_full_collection():
    started = time.perf_counter()
    gc.collect()
    return time.perf_counter() - started

gc.collect()
before = seconds_of_a_full_collection()
cycle = []
cycle.append(cycle)
share_turns()
settle_garbage()
after = seconds_of_a_full_collection()
assert gc.get_freeze_count() > len(loaded), gc.get_freeze_count()
assert after < before / 10, (before, after)
assert gc.isenabled() and gc.get_threshold()[2] == 100, gc.get_threshold()
assert sys.getswitchinterval() == 0.0005

class Watched:
    deleted = 0
    def __del__(self):
        Watched.deleted += 1

for _ in range(1000):
    one = Watched()
    one.itself = one
del one
gc.collect()
assert Watched.deleted == 1000, "what comes later is still collected"
"""


def test_a_full_collection_walks_nothing_of_what_was_loaded_before() -> None:
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, timeout=60)


PASSES = """
import resource, threading
import numpy as np
from runtime.serving.interpreter import keep_memory

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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc is not glibc's")
def test_what_a_pass_frees_serves_the_next_one() -> None:
    subprocess.run([sys.executable, "-c", PASSES], check=True, timeout=60)
