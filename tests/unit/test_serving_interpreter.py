"""What a replica asks of its interpreter, in a process of its own: it holds for all that comes after."""

import subprocess
import sys

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
