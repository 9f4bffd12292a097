"""A replica's row over its life, and what a store that is away changes."""

import threading
import time

from runtime.core.errors import UnreachableError
from runtime.serving.registration import Registration, ReplicaRows
from runtime.store.records import Replica
from tests.unit.test_serving_edge_servers import REPLICA


class Rows:
    def __init__(self) -> None:
        self.is_away = False
        self.written: list[Replica] = []
        self.removed: list[str] = []
        self.forgotten_before = 0.0
        self.has_written = threading.Semaphore(0)

    def register_replica(self, replica: Replica) -> None:
        self.has_written.release()
        if self.is_away:
            raise UnreachableError("away")
        self.written.append(replica)

    def forget_replicas(self, before: float) -> int:
        if self.is_away:
            raise UnreachableError("away")
        self.forgotten_before = before
        return 0

    def remove_replica(self, replica_id: str) -> None:
        if self.is_away:
            raise UnreachableError("away")
        self.removed.append(replica_id)


def test_it_beats_then_drains_then_is_gone() -> None:
    rows = Rows()
    _check: ReplicaRows = rows
    started = time.time()
    registration = Registration(rows, REPLICA, beat_s=0.01)
    registration.start()
    for _ in range(3):
        assert rows.has_written.acquire(timeout=10)
    registration.drain()
    states = [replica.state for replica in rows.written]
    assert states == ["ready"] * (len(states) - 1) + ["draining"]
    assert rows.written[0].at >= started
    assert rows.forgotten_before < started
    registration.remove()
    assert rows.removed == ["a"]


def test_a_store_that_comes_back_gets_the_whole_row() -> None:
    rows = Rows()
    rows.is_away = True
    registration = Registration(rows, REPLICA, beat_s=0.01)
    registration.start()
    for _ in range(3):
        assert rows.has_written.acquire(timeout=10)
    assert rows.written == []
    rows.is_away = False
    for _ in range(2):
        assert rows.has_written.acquire(timeout=10)
    registration.drain()
    assert rows.written[0].host == REPLICA.host
    rows.is_away = True
    registration.remove()
