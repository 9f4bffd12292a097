"""What a benchmark says: figures against targets, as one JSON document (DESIGN §5) and as a table."""

import json
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from runtime.core.files import write_atomic
from runtime.core.git import read_code_version


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One number; without a target it is reported only."""

    name: str
    value: float
    unit: str
    target: float | None
    op: Literal[">=", "<="]

    @property
    def ok(self) -> bool:
        if self.target is None:
            return True
        return self.value >= self.target if self.op == ">=" else self.value <= self.target


def report(name: str, figures: list[Figure], raw: dict[str, Any], json_path: Path | None) -> int:
    """Print the figures, write the document if asked to, and return the exit code: 1 if a target is missed."""
    document = {
        "name": name,
        "commit": read_code_version(Path(__file__).parent).commit,
        "machine": describe_machine(),
        "figures": [asdict(figure) | {"ok": figure.ok} for figure in figures],
        "raw": raw,
    }
    for figure in figures:
        held = (
            "reported" if figure.target is None else f"{figure.op} {figure.target:g}: {'ok' if figure.ok else 'MISSED'}"
        )
        print(f"{name}.{figure.name:28} {figure.value:10.3f} {figure.unit:12} {held}")
    if json_path is not None:
        write_atomic(json_path, json.dumps(document, indent=2))
    return 0 if all(figure.ok for figure in figures) else 1


def describe_machine() -> dict[str, Any]:
    model = platform.processor() or platform.machine()
    cpu_info = Path("/proc/cpuinfo")
    if cpu_info.exists():
        names = [line.partition(":")[2].strip() for line in cpu_info.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return {
        "cpu": model,
        "num_cpus": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
    }
