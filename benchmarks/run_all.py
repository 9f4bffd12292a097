"""Run every benchmark and print one table: figure, target, ok. Exit code 1 if a target is missed."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

HERE = Path(__file__).parent
BENCHMARKS = (
    "serving",
    "serving_rows",
    "serving_faults",
    "serving_scale",
    "replica",
    "conformance",
    "drift_statistics",
    "monitoring",
    "rollout_statistics",
    "rollout",
)
RESULTS = HERE.parent / ".bench" / "results"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds: a look, not a record")
    arguments = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    table = Table("benchmark", "figure", "value", "unit", "target", "ok", box=None)
    is_ok = True
    for name in BENCHMARKS:
        path = RESULTS / f"{name}.json"
        path.unlink(missing_ok=True)
        command = [sys.executable, str(HERE / f"{name}.py"), "--json", str(path), *["--quick"] * arguments.quick]
        subprocess.run(command, check=False)
        if not path.exists():
            table.add_row(name, "-", "-", "-", "-", Text("no result", style="red"))
            is_ok = False
            continue
        for figure in json.loads(path.read_text())["figures"]:
            target = "reported" if figure["target"] is None else f"{figure['op']} {figure['target']:g}"
            mark = Text("ok", style="green") if figure["ok"] else Text("MISSED", style="red")
            table.add_row(name, figure["name"], f"{figure['value']:.3g}", figure["unit"], target, mark)
            is_ok &= figure["ok"]
    Console().print(table)
    return 0 if is_ok else 1


if __name__ == "__main__":
    sys.exit(main())
