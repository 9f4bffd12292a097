"""What the controller sees of a running platform: slots by their answer, edges and the monitor by their counters."""

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from runtime.config.schema import Config
from runtime.core.errors import TealError
from runtime.rollout.capacity import Capacity
from runtime.rollout.labels import LossReader, LossSums, Span
from runtime.rollout.operations import check_slot_ready
from runtime.rollout.readings import ZEROS, Counted, FailedKeys, Life, Reading, Source
from runtime.rollout.traffic import EDGE_ALIVE_S
from runtime.serving.edge_counters import EdgeLife, read_lives
from runtime.serving.edge_files import EdgeFiles, touch_hint
from runtime.serving.edge_keys import failed_keys_command, parse_failed_keys
from runtime.serving.edge_nodes import edge_id_of
from runtime.serving.edge_process import EdgeProcess
from runtime.serving.edge_shares import app_name
from runtime.store.control import ControlStore
from runtime.store.records import SLOTS, EndpointState, Slot

Totals = list[dict[str, Any]]
"""One entry a slot and model version: `slot`, `model_version`, `requests`, `errors`, `refused`, `latency`, `score`."""
LIVES_KEPT = 64
"""Of an endpoint's edges that are gone, whose last counts are still told."""
ReadLives = Callable[[Sequence[str], Sequence[str]], list[EdgeLife]]
"""Counters of these edges, by id, for these backends. TealError or OSError if one of them does not tell."""


class PlatformWorld:
    """The counters are those of all live edges, and the monitor's, which hears every replica."""

    def __init__(
        self,
        config: Config,
        read_totals: Callable[[str], Totals],
        *,
        capacity: Capacity | None = None,
        labels: LossReader | None = None,
        read_lives: ReadLives | None = None,
    ) -> None:
        """`read_totals` gives the monitor's totals of an endpoint; TealError if it does not answer. `capacity`: where
        there is none, replicas are nobody's concern. `labels`: where there is none, no label ever comes back.
        `read_lives`: by default those of this machine's edge.
        """
        self._labels = labels
        self._capacity = capacity
        self._config = config
        self._read_totals = read_totals
        cluster = config.cluster
        self._edge_id = edge_id_of(cluster, cluster.address)
        self._store = ControlStore.of(config.paths)
        self._read_lives = read_lives or self._read_own_lives
        self._lives: dict[str, dict[str, Life]] = {}
        """Endpoint to all lives that were ever read, the latest last."""
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
            if source == "edge":
                return self._read_edges(endpoint, now)
            slots, complete_until = self._read_replicas(endpoint)
        except (OSError, TealError):
            return None
        return Reading(
            source=source,
            at=now,
            generation=endpoint.generation,
            epoch="monitor",
            slots=slots,
            complete_until=complete_until,
        )

    def read_failed_keys(self, endpoint: EndpointState) -> FailedKeys | None:
        """Of this machine's edge: which edge a key's requests meet has nothing to do with the slot they are dealt."""
        try:
            (worker, *_), _old = self._edge.workers()
            tables = {slot: failed_keys_command(app_name(endpoint.name, slot)) for slot in SLOTS}
            return {
                slot: parse_failed_keys(self._edge.command(f"@!{worker} {command}")) for slot, command in tables.items()
            }
        except (OSError, TealError):
            return None

    def read_losses(self, endpoint: EndpointState, spans: Sequence[Span], kinds: Collection[str]) -> LossSums | None:
        return None if self._labels is None else self._labels.read_losses(endpoint, spans, kinds)

    def ask_capacity(self, endpoint: EndpointState, wanted: Mapping[Slot, int]) -> str | None:
        return None if self._capacity is None else self._capacity.ask(endpoint, wanted)

    def traffic_changed(self) -> None:
        touch_hint(self._config.paths)

    def _read_edges(self, endpoint: EndpointState, now: float) -> Reading | None:
        """None if no edge is alive. One that died has the counts that were last read of it for as long as this lives:
        they are in the evidence already, or come into it now."""
        signs = self._store.acknowledged(endpoint.name, alive_since=now - EDGE_ALIVE_S)
        apps = {slot: app_name(endpoint.name, slot) for slot in SLOTS}
        found = self._read_lives(sorted(signs), list(apps.values())) if signs else []
        if not found:
            return None
        lives = self._lives.setdefault(endpoint.name, {})
        for life in found:
            then = lives.pop(life.name, None)
            began_at = now - life.age_s - 1.0  # ages are whole seconds; to count too little is no harm
            slots: dict[str, Counted] = {slot: life.apps[app] for slot, app in apps.items()}
            if then is not None:
                # HAProxy empties the tables of a worker that a reload replaced.
                slots = {slot: max(then.slots[slot], counted, key=_num_requests) for slot, counted in slots.items()}
            lives[life.name] = Life(began_at=began_at, slots=slots)
        for name in list(lives)[: -(LIVES_KEPT + len(found))]:
            del lives[name]
        epoch = next((life.name for life in found if life.name.startswith(f"{self._edge_id} ")), "")
        return Reading(source="edge", at=now, generation=endpoint.generation, epoch=epoch, slots={}, lives=dict(lives))

    def _read_own_lives(self, _live: Sequence[str], apps: Sequence[str]) -> list[EdgeLife]:
        return read_lives(self._edge, self._edge_id, apps)

    def _read_replicas(self, endpoint: EndpointState) -> tuple[dict[str, Counted], float | None]:
        totals = self._read_totals(endpoint.name)
        slots: dict[str, Counted] = {}
        complete: list[float | None] = []
        for slot in SLOTS:
            model = endpoint.slot(slot).model
            label = None if model is None else model.label
            found = [entry for entry in totals if (entry["slot"], entry["model_version"]) == (slot, label)]
            slots[slot] = _replica_counts(found[0]) if found else dict(ZEROS)
            complete += [entry.get("complete_until", math.inf) for entry in found]
        return slots, None if None in complete else min((at for at in complete if at is not None), default=None)


def _num_requests(counted: Counted) -> float:
    return counted["requests"][0]


def _replica_counts(entry: dict[str, Any]) -> Counted:
    return {
        "requests": [entry["requests"]],
        "errors": [entry["errors"]],
        "refused": [entry["refused"]],
        "latency": np.asarray(entry["latency"]).tolist(),
        "score": np.asarray(entry["score"]).tolist(),
    }
