"""What one edge's clients saw, by slot, HTTP and gRPC together: counters that grow while a worker of HAProxy lives.

HTTP answers are in HAProxy's statistics. Those of gRPC are all a status 200 there, so a table counts them by what
their `grpc-status` says. A reload makes another worker with counters of its own, while the old one answers what it has.
"""

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from runtime.serving.edge_process import EdgeProcess
from runtime.serving.edge_shares import grpc_app

RESPONSES = ("hrsp_1xx", "hrsp_2xx", "hrsp_3xx", "hrsp_4xx", "hrsp_5xx", "hrsp_other")
COUNTERS = ("requests", "errors", "refused")
SERVERS_FAULT = (2, 13, 14, 15)
"""UNKNOWN, INTERNAL, UNAVAILABLE and DATA_LOSS of gRPC; the other failures are the caller's, or a limit's."""
CALLERS_FAULT = (1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 16)
GPC = re.compile(r"gpc(\d)=(\d+)")

SlotCounts = dict[str, list[float]]
"""`requests`, `errors` (5xx) and `refused` (4xx), one cell each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EdgeLife:
    """The counters of one worker process of one edge."""

    name: str
    """Of this process alone, on whatever machine."""
    age_s: float
    """For how long it has counted."""
    apps: Mapping[str, SlotCounts]


def render_grpc_counting() -> str:
    """Lines of a gRPC backend by which its answers are counted."""
    servers, callers = (" ".join(map(str, statuses)) for statuses in (SERVERS_FAULT, CALLERS_FAULT))
    return f"""    stick-table type string len 96 size 1 store gpc({len(COUNTERS)})
    http-request track-sc2 be_name
    http-after-response sc-inc-gpc(0,2)
    http-after-response sc-inc-gpc(1,2) if {{ status ge 500 }} || {{ res.hdr(grpc-status) -m str {servers} }}
    http-after-response sc-inc-gpc(2,2) if {{ status 400:499 }} || {{ res.hdr(grpc-status) -m str {callers} }}"""


def read_lives(process: EdgeProcess, edge_id: str, apps: Sequence[str]) -> list[EdgeLife]:
    """Counters of every worker of this edge that still answers somebody. OSError or TealError if it does not tell."""
    current, old = process.workers()
    lives = []
    for pid in (*current, *old):
        info = process.command(f"@!{pid} show info")
        if not info.strip() and pid in old:
            continue  # it has ended meanwhile
        values = dict(line.split(": ", 1) for line in info.splitlines() if ": " in line)
        backends = parse_backends(process.command(f"@!{pid} show stat -1 2 -1"))
        counted = {
            app: _add(backends.get(app), parse_table(process.command(f"@!{pid} show table {grpc_app(app)}")))
            for app in apps
        }
        name = f"{edge_id} {pid}@{values['Start_time_sec']}"
        lives.append(EdgeLife(name=name, age_s=float(values["Uptime_sec"]), apps=counted))
    return lives


def parse_backends(text: str) -> dict[str, SlotCounts]:
    """HAProxy's `show stat` of backends: answers to clients, and those that were 5xx and 4xx, its own included."""
    found: dict[str, SlotCounts] = {}
    lines = [line for line in text.removeprefix("# ").splitlines() if line]
    for row in csv.DictReader(lines):
        if row.get("svname") == "BACKEND":
            answered = sum(int(row[name] or 0) for name in RESPONSES)
            errors, refused = int(row["hrsp_5xx"] or 0), int(row["hrsp_4xx"] or 0)
            found[row["pxname"]] = {"requests": [answered], "errors": [errors], "refused": [refused]}
    return found


def parse_table(text: str) -> SlotCounts:
    """HAProxy's `show table` of a gRPC backend; zeros where nothing was asked yet, or it has no such table."""
    counted = {int(number): float(value) for number, value in GPC.findall(text)}
    return {name: [counted.get(number, 0.0)] for number, name in enumerate(COUNTERS)}


def _add(http: SlotCounts | None, grpc: SlotCounts) -> SlotCounts:
    return grpc if http is None else {name: [http[name][0] + grpc[name][0]] for name in COUNTERS}
