"""How edges learn of a replica: its row in the control store, written again as a sign of life. No Ray.

The store may be away at any time: the next beat writes the whole row. An edge without a row sends requests through
Ray's ingress, so a late registration costs speed and no answer.
"""

import logging
import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Protocol

from runtime.core.errors import TealError
from runtime.store.records import EndpointState, Replica, ReplicaState, Slot

logger = logging.getLogger(__name__)

BEAT_S = 10.0
STALE_S = 4 * BEAT_S
"""A replica that has not written for so long counts as gone."""

FORGOTTEN_S = 3600.0
"""After which its row is removed, by the next replica that starts."""


def count_ready(rows: Iterable[Replica], endpoint: EndpointState, slot: Slot, now: float) -> int:
    """How many replicas say that they can answer with the model that the slot holds; 0 if it holds none."""
    model = endpoint.slot(slot).model
    wanted = (endpoint.name, slot, "ready", None if model is None else model.bundle_sha256)
    return sum(
        (row.endpoint, row.slot, row.state, row.bundle_sha256) == wanted and row.at > now - STALE_S for row in rows
    )


class ReplicaRows(Protocol):
    """What is needed of the control store; each call may raise TealError."""

    def register_replica(self, replica: Replica) -> None: ...

    def remove_replica(self, replica_id: str) -> None: ...

    def forget_replicas(self, before: float) -> int: ...


class Registration:
    """Keeps one replica's row true, from a thread of its own."""

    def __init__(self, rows: ReplicaRows, replica: Replica, *, beat_s: float = BEAT_S) -> None:
        self._rows = rows
        self._replica = replica
        self._beat_s = beat_s
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._run, name="registration", daemon=True)

    def start(self) -> None:
        """Write the row, then repeat it in the background; a store that is away only delays it."""
        self._write("ready")
        self._forget_the_dead()
        self._thread.start()

    def drain(self) -> None:
        """Ask the edges to send nothing new. They have read it after a poll or two."""
        self._leaving.set()
        self._thread.join(self._beat_s)
        self._write("draining")

    def remove(self) -> None:
        try:
            self._rows.remove_replica(self._replica.replica_id)
        except TealError as error:
            logger.warning("the row of replica %s stays until it is stale: %s", self._replica.replica_id, error)

    def _forget_the_dead(self) -> None:
        """Rows of replicas that were killed: nobody else removes them."""
        try:
            self._rows.forget_replicas(time.time() - FORGOTTEN_S)
        except TealError as error:
            logger.warning("rows of dead replicas stay: %s", error)

    def _run(self) -> None:
        while not self._leaving.wait(self._beat_s):
            self._write("ready")

    def _write(self, state: ReplicaState) -> None:
        try:
            self._rows.register_replica(replace(self._replica, state=state, at=time.time()))
        except TealError as error:
            logger.warning("replica %s is not registered: %s", self._replica.replica_id, error)
