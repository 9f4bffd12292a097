"""Requests of one kind, sent again and again by wrk, which costs the machine less than any client in Python."""

import re
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from runtime.core.errors import TealError

JSON = {"content-type": "application/json"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Contestant:
    """Who is asked, and what."""

    name: str
    url: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=lambda: JSON)
    rows: int = 1
    """In one body."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    requests_per_s: float
    p50_ms: float
    p99_ms: float


def write_script(contestant: Contestant, directory: Path) -> Path:
    """What wrk sends, as its Lua script; the body in a file of its own, as it may hold any byte."""
    body, script = directory / f"{contestant.name}.body", directory / f"{contestant.name}.lua"
    body.write_bytes(contestant.body)
    headers = "".join(f'wrk.headers["{name}"]="{value}"\n' for name, value in contestant.headers.items())
    script.write_text(f'wrk.method="POST"\n{headers}local file=io.open("{body}","rb")\nwrk.body=file:read("*a")\n')
    return script


def run_wrk(name: str, url: str, script: Path, *, connections: int, duration_s: int) -> Measured:
    """TealError if one request was not answered, or not with 2xx."""
    load = ["-t1", f"-c{connections}", f"-d{duration_s}s", "--timeout", "10s"]
    command = ["wrk", *load, "--latency", "-s", str(script), url]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in text or "Socket errors" in text:
        raise TealError(f"{name} lost requests: {text}")
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    if rate is None:
        raise TealError(f"wrk said nothing about {name}: {text}")
    return Measured(
        requests_per_s=float(rate[1]), p50_ms=_percentile_ms(text, "50%"), p99_ms=_percentile_ms(text, "99%")
    )


def median(values: Sequence[Measured], field: str) -> float:
    return float(statistics.median(getattr(value, field) for value in values))


def _percentile_ms(text: str, percentile: str) -> float:
    found = re.search(rf"^\s+{percentile}\s+([\d.]+)(us|ms|s)\s*$", text, re.MULTILINE)
    if found is None:
        raise TealError(f"wrk gave no {percentile}: {text}")
    return float(found[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[found[2]]
