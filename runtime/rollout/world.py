"""What the controller sees of a running platform: slots by their answer, edges and the monitor by their counters."""

import csv
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from runtime.config.schema import Config
from runtime.core.errors import TealError
from runtime.rollout.operations import check_slot_ready
from runtime.rollout.readings import ZEROS, Counted, Reading, Source
from runtime.serving.edge_files import EdgeFiles, touch_hint
from runtime.serving.edge_process import EdgeProcess
from runtime.serving.edge_shares import app_name
from runtime.store.records import SLOTS, EndpointState, Slot

Totals = list[dict[str, Any]]
"""One entry a slot and model version: `slot`, `model_version`, `requests`, `errors`, `refused`, `latency`, `score`."""
RESPONSES = ("hrsp_1xx", "hrsp_2xx", "hrsp_3xx", "hrsp_4xx", "hrsp_5xx", "hrsp_other")


class PlatformWorld:
    """The counters are this machine's edge's and the monitor's, which hears every replica."""

    def __init__(self, config: Config, read_totals: Callable[[str], Totals]) -> None:
        """`read_totals` gives the monitor's totals of an endpoint; TealError if it does not answer."""
        self._config = config
        self._read_totals = read_totals
        cluster = config.cluster
        self._edge = EdgeProcess(EdgeFiles.of(config.paths), address=(cluster.host, cluster.ports.edge))

    def now(self) -> float:
        return time.time()

    def why_not_ready(self, endpoint: EndpointState, slot: Slot) -> str | None:
        try:
            check_slot_ready(self._config, endpoint, slot)
        except TealError as error:
            return str(error)
        return None

    def read(self, source: Source, endpoint: EndpointState, now: float) -> Reading | None:
        try:
            epoch, slots = self._read_edge(endpoint) if source == "edge" else self._read_replicas(endpoint)
        except (OSError, TealError):
            return None
        return Reading(source=source, at=now, generation=endpoint.generation, epoch=epoch, slots=slots)

    def traffic_changed(self) -> None:
        touch_hint(self._config.paths)

    def _read_edge(self, endpoint: EndpointState) -> tuple[str, dict[str, Counted]]:
        (worker, *_), _old = self._edge.workers()
        rows = parse_backends(self._edge.command(f"@!{worker} show stat -1 2 -1"))
        return str(worker), {slot: rows.get(app_name(endpoint.name, slot), _nothing("edge")) for slot in SLOTS}

    def _read_replicas(self, endpoint: EndpointState) -> tuple[str, dict[str, Counted]]:
        totals = self._read_totals(endpoint.name)
        slots: dict[str, Counted] = {}
        for slot in SLOTS:
            model = endpoint.slot(slot).model
            label = None if model is None else model.label
            found = [entry for entry in totals if (entry["slot"], entry["model_version"]) == (slot, label)]
            slots[slot] = _replica_counts(found[0]) if found else _nothing("replicas")
        return "monitor", slots


def parse_backends(text: str) -> dict[str, Counted]:
    """HAProxy's `show stat` of backends: answers to clients, and those that were 5xx, its own included."""
    found: dict[str, Counted] = {}
    lines = [line for line in text.removeprefix("# ").splitlines() if line]
    for row in csv.DictReader(lines):
        if row.get("svname") == "BACKEND":
            answered = sum(int(row[name] or 0) for name in RESPONSES)
            errors, refused = int(row["hrsp_5xx"] or 0), int(row["hrsp_4xx"] or 0)
            found[row["pxname"]] = {"requests": [answered], "errors": [errors], "refused": [refused]}
    return found


def _replica_counts(entry: dict[str, Any]) -> Counted:
    return {
        "requests": [entry["requests"]],
        "errors": [entry["errors"]],
        "refused": [entry["refused"]],
        "latency": np.asarray(entry["latency"]).tolist(),
        "score": np.asarray(entry["score"]).tolist(),
    }


def _nothing(source: Source) -> Counted:
    names = ("requests", "errors", "refused") if source == "edge" else tuple(ZEROS)
    return {name: ZEROS[name] for name in names}
