"""What a monitor promises on every control store: each delta counts once, whoever dies and whatever is lost."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import event

from runtime.config.monitoring import MonitoringConfig
from runtime.core.errors import UnreachableError
from runtime.monitoring.monitor import Monitor
from runtime.store.control import ControlStore
from runtime.store.monitor_counts import SupersededError
from tests.monitor_store import ingest
from tests.monitor_traffic import PROFILE, message

KILLED_MONITORS = """
import os, signal, sys
import numpy as np
from sqlalchemy import event
from runtime.config.monitoring import MonitoringConfig
from runtime.monitoring.deltas import Delta, add_tallies
from runtime.monitoring.monitor import Monitor
from runtime.store.control import ControlStore
from tests.monitor_traffic import PROFILE, message

url = sys.argv[1]
clock = [1_700_000_000.0]
REPLICAS = ("a", "b", "c")

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def die_at(store, number):
    count = 0
    def step(*_):
        nonlocal count
        count += 1
        if count == number:
            die()
    for moment in ("before_cursor_execute", "after_cursor_execute"):
        event.listen(store._engine, moment, step)
    event.listen(store._engine, "commit", step)
    after_commit = store._after_commit
    def committed(noted):
        step()
        after_commit(noted)
    store._after_commit = committed

def live(number, messages, acknowledged):
    store = ControlStore(url)
    store.generations()
    die_at(store, number)
    monitor = Monitor(store, MonitoringConfig(), lambda _: PROFILE, clock=lambda: clock[0])
    for one in messages:
        monitor.offer(one)
    monitor.write()
    if number % 2:
        os.write(acknowledged, b"1")
    monitor.tick()
    if not number % 2:  # an answer so late that the tick has ended meanwhile
        os.write(acknowledged, b"1")

sequence, num_points = 1, 0
sent, waiting = [], []
while True:
    # Each replica sends a new delta once its last one was acknowledged, and the same again until then.
    is_new = not waiting
    if is_new:
        waiting = [message(sequence, replica=replica, rows=20) for replica in REPLICAS]
        sent += waiting
        sequence += 1
    clock[0] += 7
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        live(num_points + 1, waiting, writer)
        os._exit(0)
    os.close(writer)
    if os.read(reader, 1):
        waiting = []
    os.close(reader)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL), status
    if status == 0 and is_new:  # with nothing new to write there are fewer points to die at
        break
    num_points += status != 0

store = ControlStore(url)
monitor = Monitor(store, MonitoringConfig(), lambda _: PROFILE, clock=lambda: clock[0])
expected = {}
for one in sent:
    delta = Delta.from_message(one, 0.0)
    add_tallies(expected, {delta.series: delta.tally})
(series, tally), = expected.items()
for name, found in (
    ("totals", monitor._ledger.totals()),
    ("ticks", monitor._ledger.window(0.0, None)),
    ("week", monitor._period(series.endpoint, "week", clock[0])),
):
    assert found[series].requests == tally.requests, (name, found[series].requests, tally.requests)
    assert (found[series].latency == tally.latency).all(), name
    counts, wanted = found[series].counts, tally.counts
    assert (counts.numeric == wanted.numeric).all(), name
    assert (counts.categorical[0] == wanted.categorical[0]).all(), name
    assert (counts.score == wanted.score).all(), name
    assert np.allclose(counts.moments, wanted.moments), name  # sums of floats depend on their order
print(num_points)
"""


class _Lost(Exception):
    """In a database driver's place: the connection is gone, whether the commit was made or not."""


class MonitorConformance:
    """A subclass gives the fixture `url`: an empty database for each test."""

    @pytest.fixture
    def store(self, url: str) -> Iterator[ControlStore]:
        store = ControlStore(url)
        store.create_schema()
        yield store
        store.close()

    def test_a_monitor_killed_at_any_statement_loses_and_doubles_nothing(self, store: ControlStore) -> None:
        done = subprocess.run(
            [sys.executable, "-c", KILLED_MONITORS, store.url], capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert int(done.stdout) > 40, done.stdout

    def test_a_store_that_is_lost_at_any_statement_costs_nothing_but_time(self, store: ControlStore) -> None:
        monitor = Monitor(
            store, MonitoringConfig(), lambda _: PROFILE, clock=iter(range(1_700_000_000, 2**31)).__next__
        )
        countdown, num_lost = [0], 0

        def lose(*_: Any) -> None:
            countdown[0] -= 1
            if countdown[0] == 0:
                raise _Lost

        after_commit = store._after_commit

        def committed(noted: Any) -> None:
            lose()
            after_commit(noted)

        for moment in ("before_cursor_execute", "after_cursor_execute", "commit"):
            event.listen(store._engine, moment, lose)
        store._after_commit = committed  # type: ignore[method-assign]
        for number in range(1, 200):
            countdown[0] = number
            num_tries = 0
            while num_tries < 2:
                try:
                    ingest(monitor, message(number, rows=10))
                    monitor.tick()
                    break
                except _Lost:
                    num_tries += 1
            if countdown[0] > 0:
                break
            num_lost += 1
        countdown[0] = 0  # nothing is lost from here on
        assert num_lost > 20
        (live,) = monitor.status()["entries"]
        assert live["rows"] == 10 * (num_lost + 1)
        heir = Monitor(store, MonitoringConfig(), lambda _: PROFILE)
        assert [entry["rows"] for entry in heir.status()["entries"]] == [live["rows"]]
        assert sum(entry["rows"] for entry in heir.drift("flights", since=0.0)) == live["rows"]

    def test_one_that_was_replaced_writes_nothing_any_more(self, store: ControlStore, url: str) -> None:
        old = Monitor(store, MonitoringConfig(), lambda _: PROFILE)
        ingest(old, message(1))
        new = Monitor(store, MonitoringConfig(), lambda _: PROFILE)
        with pytest.raises(SupersededError, match="another monitor has taken over shard 0"):
            ingest(old, message(2))
        with pytest.raises(SupersededError):
            old.tick()
        assert ingest(new, message(2)) is True
        new.tick()
        (entry,) = Monitor(store, MonitoringConfig(), lambda _: PROFILE).status()["entries"]
        assert entry["rows"] == 200

    def test_an_endpoint_moves_to_another_shard_with_all_that_is_known_of_it(self, store: ControlStore) -> None:
        config = MonitoringConfig(num_shards=2)
        alone = Monitor(store, MonitoringConfig(), lambda _: PROFILE)
        for name in ("flights", "trains"):
            ingest(alone, message(1, endpoint=name))
        alone.tick()
        ingest(alone, message(2, endpoint="trains"))
        first = Monitor(store, config, lambda _: PROFILE, shard=0, owns=lambda name: name == "flights")
        second = Monitor(store, config, lambda _: PROFILE, shard=1, owns=lambda name: name == "trains")
        assert [entry["rows"] for entry in first.status()["entries"]] == [100]
        assert [entry["rows"] for entry in second.status()["entries"]] == [200]
        assert ingest(second, message(2, endpoint="trains")) is False
        second.tick()
        together = Monitor(store, MonitoringConfig(), lambda _: PROFILE)
        assert [entry["rows"] for entry in together.drift(since=0.0)] == [100, 200]
        with pytest.raises(SupersededError):
            second.tick()

    def test_a_store_that_does_not_answer_is_named_and_what_was_offered_waits(
        self, store: ControlStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monitor = Monitor(store, MonitoringConfig(), lambda _: PROFILE)

        def away(*_: object) -> None:
            raise UnreachableError("the store is restarting")

        with monkeypatch.context() as restarting:
            restarting.setattr(ControlStore, "append_monitor_counts", away)
            for sequence in (1, 2):
                with pytest.raises(UnreachableError, match="restarting"):
                    ingest(monitor, message(sequence))
            assert monitor.status()["entries"] == []
        assert ingest(monitor, message(1)) is False
        (entry,) = monitor.status()["entries"]
        assert entry["rows"] == 200
