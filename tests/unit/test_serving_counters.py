"""Counts reach the monitor once each, whatever happens on the way."""

from typing import Any

import numpy as np

from runtime.data.counts import Counts
from runtime.monitoring.deltas import Delta as Received
from runtime.serving.counters import Delta, Pusher, Tally
from runtime.telemetry.latency import BOUNDS_MS, NUM_BUCKETS, count_latencies

IDENTITY = {"endpoint": "e", "slot": "blue", "model_version": "m:1", "replica": "r"}


def delta(requests: int) -> Delta:
    return Delta(
        requests=requests,
        rows=requests,
        errors=0,
        refused=0,
        latency_ms_counts=np.zeros(NUM_BUCKETS, dtype=np.int64),
        counts=Counts.zero(1, [3]),
    )


class Monitor:
    """Takes deltas as the real one does: once by replica and sequence."""

    def __init__(self) -> None:
        self.taken: dict[int, int] = {}
        self.is_away = False
        self.loses_answers = False

    def send(self, message: dict[str, Any]) -> None:
        if self.is_away:
            raise ValueError("no actor")
        self.taken.setdefault(message["sequence"], message["requests"])
        if self.loses_answers:
            raise TimeoutError("no answer")


def push(pusher: Pusher, num_times: int) -> list[bool]:
    return [pusher.push() for _ in range(num_times)]


def test_every_request_is_counted_once_over_an_absent_and_a_mute_monitor() -> None:
    monitor = Monitor()
    taken = iter([1, 2, 4, 8, 16, 32, 64])
    pusher = Pusher(lambda: delta(next(taken)), monitor.send, identity=IDENTITY, interval_s=1)
    assert push(pusher, 1) == [True]
    monitor.is_away = True
    assert push(pusher, 2) == [False, False]
    monitor.is_away, monitor.loses_answers = False, True
    assert push(pusher, 2) == [False, False]
    monitor.loses_answers = False
    assert push(pusher, 2) == [True, True]
    assert sum(monitor.taken.values()) == 127
    assert pusher.status() == {"sequence": 3, "failures": 4}


def test_what_may_have_arrived_is_sent_again_unchanged() -> None:
    monitor = Monitor()
    monitor.loses_answers = True
    taken = iter([5, 7])
    pusher = Pusher(lambda: delta(next(taken)), monitor.send, identity=IDENTITY, interval_s=1)
    push(pusher, 2)
    assert monitor.taken == {1: 5}


def test_the_monitor_understands_a_message() -> None:
    messages: list[dict[str, Any]] = []
    Pusher(lambda: delta(3), messages.append, identity=IDENTITY, interval_s=1).push()
    received = Received.from_message(messages[0], 0.0)
    assert (received.sequence, received.tally.requests, received.series.model_version) == (1, 3, "m:1")


def test_a_tally_tells_the_callers_faults_from_its_own() -> None:
    tally = Tally()
    for status in (200, 422, 429, 500, 503):
        tally.add(status, 2, 1.0)
    assert (tally.requests, tally.rows, tally.errors, tally.refused) == (5, 10, 2, 2)


def test_latencies_fall_into_the_monitors_buckets() -> None:
    latencies = [0.0, BOUNDS_MS[0], 0.11, 5.0, BOUNDS_MS[-1], 1e9]
    tally = Tally()
    for latency in latencies:
        tally.add(200, 1, latency)
    assert tally.latency_ms_counts == count_latencies(latencies).tolist()


def test_the_end_of_a_replica_sends_what_was_in_doubt_and_what_came_meanwhile() -> None:
    monitor = Monitor()
    monitor.is_away = True
    taken = iter([1, 2, 4, 8])
    pusher = Pusher(lambda: delta(next(taken)), monitor.send, identity=IDENTITY, interval_s=3600)
    assert push(pusher, 2) == [False, False]
    monitor.is_away = False
    pusher.start()
    assert pusher.finish(10.0)
    assert monitor.taken == {1: 1, 2: 2 + 4 + 8}


def test_the_end_of_a_replica_does_not_wait_for_a_monitor_that_is_away() -> None:
    monitor = Monitor()
    monitor.is_away = True
    pusher = Pusher(lambda: delta(1), monitor.send, identity=IDENTITY, interval_s=3600)
    pusher.start()
    assert pusher.finish(10.0)
    assert pusher.status() == {"sequence": 1, "failures": 1}
