"""100,000 malformed requests to a real edge in front of a real replica process, by every protocol, over real sockets.

Nine callers at once send valid requests with something wrong in them (tests/malformed_*.py: documents and bytes changed
at random from a seed, and hand-picked nasties): rows and feedback as JSON, the Open Inference Protocol as JSON, as
binary tensors and over gRPC, Arrow streams by type, structure and byte, headers, paths, methods, framing. No answer may
be the server's fault (5xx; UNKNOWN, INTERNAL, UNAVAILABLE, DATA_LOSS of gRPC), none may fail to come, no process may
die or grow. What is answered 200 is read again by other code (tests/malformed_oracle.py): it must have been valid after
all, and have the model's own scores to the bit, as have the valid requests in between.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.result import Figure, report  # noqa: E402
from tests.malformed_run import Outcome, ask_malformed  # noqa: E402
from tests.serving_slot import Slot, running_slot  # noqa: E402

NUM_REQUESTS, NUM_QUICK = 100_000, 5_000
WARM_PART = 0.2
MAX_GROWTH_MIB = 48.0
"""Of the replica after the first fifth: what its logs may hold back when they are written, and no more."""
SHOWN_EACH = 5_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="5,000 requests: for a look, not for a record")
    parser.add_argument("--json", type=Path, help="write the document here")
    parser.add_argument("--seed", type=int, default=1, help="another one asks other requests")
    arguments = parser.parse_args()
    number = NUM_QUICK if arguments.quick else NUM_REQUESTS
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="co-") as temporary, running_slot(Path(temporary)) as slot:
        before = slot.pids()
        memory = Memory(slot, number)
        outcome = ask_malformed(slot, number, seed=arguments.seed, progress=memory.look)
        memory.look(outcome.num_asked)
        num_deaths = sum(after != before[name] for name, after in slot.pids().items())
        logged = slot.log.read_text()
    took_s = time.perf_counter() - started
    for example in outcome.examples:
        print(example, file=sys.stderr)
    raw = {
        "statuses": dict(sorted(outcome.statuses.items())),
        "faults": dict(outcome.faults),
        "examples": outcome.examples,
        "seed": arguments.seed,
        "seconds": took_s,
    }
    return report("conformance", figures(outcome, memory, number, num_deaths, logged, took_s), raw, arguments.json)


class Memory:
    """Resident memory of the replica and of the edge's worker while they are asked."""

    def __init__(self, slot: Slot, number: int) -> None:
        self._pids = {name: pid for name, pid in slot.pids().items() if pid is not None and name != "master"}
        self._warm_at = number * WARM_PART
        self._shown = 0
        self.warm: dict[str, float] = {}
        self.most: dict[str, float] = dict.fromkeys(self._pids, 0.0)

    def look(self, num_asked: int) -> None:
        found = {name: resident_mib(pid) for name, pid in self._pids.items()}
        if not self.warm and num_asked >= self._warm_at:
            self.warm = found
        self.most = {name: max(most, found[name]) for name, most in self.most.items()}
        if num_asked >= self._shown + SHOWN_EACH:
            self._shown = num_asked - num_asked % SHOWN_EACH
            sizes = ", ".join(f"{name} {size:.0f} MiB" for name, size in found.items())
            print(f"{num_asked} asked; {sizes}", file=sys.stderr)

    def growth(self, name: str) -> float:
        return self.most[name] - self.warm.get(name, self.most[name])


def figures(outcome: Outcome, memory: Memory, number: int, num_deaths: int, logged: str, took_s: float) -> list[Figure]:
    faults = Counter(outcome.faults)
    num_5xx = sum(count for fault, count in faults.items() if fault.startswith("server's fault"))
    num_answered = sum(
        count for status, count in outcome.statuses.items() if status.rpartition(" ")[2] in ("200", "OK")
    )
    num_failed_valid = faults.pop("a valid request failed", 0)
    num_missing = faults.get("no answer", 0) + faults.get("no answer in time", 0)
    return [
        figure("requests", outcome.num_asked, "requests", number),
        figure("server_faults", num_5xx, "answers", 0),
        figure("missing_answers", num_missing, "answers", 0),
        figure("wrong_answers", sum(faults.values()) - num_5xx - num_missing, "answers", 0),
        figure("deaths", num_deaths, "processes", 0),
        figure("tracebacks", logged.count("Traceback"), "in the log", 0),
        figure("valid_between", outcome.num_valid, "requests", None),
        figure("valid_failed", num_failed_valid, "requests", 0),
        figure("valid_after_all", num_answered, "answers", None),
        figure("replica_growth", memory.growth("replica"), "MiB", MAX_GROWTH_MIB),
        figure("edge_growth", memory.growth("edge"), "MiB", MAX_GROWTH_MIB),
        figure("replica_memory", memory.most["replica"], "MiB", None),
        figure("seconds", took_s, "s", None),
    ]


def figure(name: str, value: float, unit: str, target: float | None) -> Figure:
    return Figure(name=name, value=float(value), unit=unit, target=target, op=">=" if name == "requests" else "<=")


def resident_mib(pid: int) -> float:
    """0 for a process that is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")), 0.0)


if __name__ == "__main__":
    sys.exit(main())
