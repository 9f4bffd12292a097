"""What more replicas bring, what many endpoints cost, and what the platform costs before anybody asks.

`replicas`: 1 and 2 replicas of a slot, for a model that computes and one that waits (`scale_replicas`). `endpoints`: an
edge with 200 endpoints against one with a single one (`scale_endpoints`). `start`: time from `teal up` to the first
answer and idle memory, by the real commands (`first_answer`). Within a part all take turns; a figure is a median.

    python benchmarks/serving_scale.py [--quick] [--only replicas endpoints start] [--json FILE]
"""

import argparse
import os
import shutil
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import first_answer, scale_endpoints, scale_replicas  # noqa: E402
from benchmarks.result import Figure, report  # noqa: E402
from runtime.core.errors import TealError  # noqa: E402

PARTS = ("replicas", "endpoints", "start")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="few short rounds: for a look, not for a record")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="these parts alone")
    parser.add_argument("--json", type=Path, help="write the document here")
    arguments = parser.parse_args()
    if shutil.which("wrk") is None:
        print("wrk is not installed; on Debian `apt-get install wrk`", file=sys.stderr)
        return 1
    figures: list[Figure] = []
    raw: dict[str, Any] = {"load_average": os.getloadavg()}
    try:
        if "endpoints" in arguments.only:
            num_rounds, duration_s, num_shares = (3, 2.0, 5) if arguments.quick else (11, 4.0, 20)
            edges = scale_endpoints.measure_endpoints(
                num_rounds=num_rounds, duration_s=duration_s, num_shares=num_shares
            )
            figures += scale_endpoints.build_figures(edges)
            raw["endpoints"] = scale_endpoints.describe(edges)
        if "replicas" in arguments.only:
            rounds, seconds = (2, 2) if arguments.quick else (5, 4)
            rates = scale_replicas.measure_replicas(num_rounds=rounds, duration_s=seconds)
            figures += scale_replicas.build_figures(rates, os.cpu_count() or 1)
            raw["replicas"] = scale_replicas.describe(rates)
        if "start" in arguments.only:
            started = first_answer.measure_first_answer()
            figures += first_answer.build_figures(started)
            raw["start"] = first_answer.describe(started)
    except TealError as error:
        print(f"benchmarks/serving_scale.py: {error}", file=sys.stderr)
        return error.exit_code
    return report("serving_scale", figures, raw, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
