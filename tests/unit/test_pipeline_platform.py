"""`teal up` that ends halfway: what it started is stopped, what ran before is left. No Ray, no actors."""

import io
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from runtime.cli.render import endpoint_table
from runtime.cli.render import platform as draw_platform
from runtime.cluster.free_ports import free_ports
from runtime.cluster.ray_process import read_state
from runtime.config.schema import Config
from runtime.core.errors import TealError, UnreachableError
from runtime.pipeline import platform
from runtime.pipeline.progress import Silent
from runtime.pipeline.steps import Session
from runtime.store.records import Replica
from tests.cluster_config import cluster_config
from tests.rollout_world import ENDPOINT, open_store

NOTHING: dict[str, Any] = {"edge_url": "", "dashboard_url": "", "metrics_url": "", "endpoints": []}
PORT_TAKEN = "the edge did not start: cannot listen on 127.0.0.1:8080"


class Rooms:
    """What was called, in order; parts named in `fails` raise."""

    def __init__(self) -> None:
        self.called: list[str] = []
        self.fails: dict[str, BaseException] = {}
        self.is_new = True
        self.is_changed = False

    def part(self, name: str) -> Callable[..., Any]:
        def call(*_: Any, **__: Any) -> Any:
            self.called.append(name)
            if name in self.fails:
                raise self.fails[name]
            return SimpleNamespace(is_new=self.is_new, is_changed=self.is_changed)

        return call


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return replace(cluster_config(tmp_path), cluster=replace(cluster_config(tmp_path).cluster, ports=free_ports()))


@pytest.fixture
def rooms(monkeypatch: pytest.MonkeyPatch) -> Rooms:
    rooms = Rooms()
    parts = {
        "start": "runtime.cluster.ray_process.start",
        "stop": "runtime.cluster.ray_process.stop",
        "monitor": "runtime.monitoring.actor.start_monitor",
        "alerts": "runtime.pipeline.quality_actor.start_alerts",
        "edge": "runtime.serving.edge_actor.start_edge",
        "stop edge": "runtime.serving.edge_actor.stop_edge",
        "rollouts": "runtime.rollout.actor.start_rollouts",
        "models": "runtime.serving.reconcile.reconcile",
    }
    for name, place in parts.items():
        monkeypatch.setattr(place, rooms.part(name))
    monkeypatch.setattr("runtime.cluster.token.read_token", lambda _run: None)
    monkeypatch.setattr(platform, "start_notifier", rooms.part("notifier"))
    monkeypatch.setattr(platform, "_create_registry", rooms.part("registry"))
    monkeypatch.setattr(platform, "_status", lambda *_, **known: SimpleNamespace(**known, **NOTHING))
    monkeypatch.setattr(Session, "connect", rooms.part("connect"))
    return rooms


def up(config: Config, rooms: Rooms) -> Any:
    return platform.start_platform(config, Silent(), on_running=rooms.part("running"))


def drawn(status: Any) -> str:
    console = Console(width=200, file=io.StringIO())
    console.print(draw_platform(status))
    written: str = console.file.getvalue()  # type: ignore[attr-defined]
    return written


def test_what_runs_is_remembered(config: Config, rooms: Rooms) -> None:
    up(config, rooms)
    assert rooms.called.index("edge") < rooms.called.index("running")
    assert "models" not in rooms.called
    assert not {"stop", "stop edge"} & set(rooms.called)


@pytest.mark.parametrize("is_changed", [True, False])
def test_a_second_up_says_whether_it_changed_what_runs(config: Config, rooms: Rooms, is_changed: bool) -> None:
    open_store(Path(config.paths.home)).close()
    assert drawn(up(config, rooms)).startswith("started\n")
    rooms.is_new, rooms.is_changed = False, is_changed
    said = "the changed settings hold now" if is_changed else "nothing was changed"
    assert drawn(up(config, rooms)).startswith(f"already running; {said}\n")


@pytest.mark.parametrize("part", ["connect", "monitor", "edge", "rollouts", "registry"])
def test_a_start_that_fails_halfway_leaves_nothing_behind(config: Config, rooms: Rooms, part: str) -> None:
    rooms.fails[part] = UnreachableError(PORT_TAKEN)
    with pytest.raises(TealError, match=f"{PORT_TAKEN}\n.*stopped again; `teal up` begins anew"):
        up(config, rooms)
    assert rooms.called[-2:] == ["stop edge", "stop"]
    assert "running" not in rooms.called


def test_an_interrupted_start_leaves_nothing_behind(config: Config, rooms: Rooms) -> None:
    rooms.fails["edge"] = KeyboardInterrupt()
    rooms.fails["stop edge"] = TealError("the edge does not answer")
    with pytest.raises(KeyboardInterrupt):
        up(config, rooms)
    assert rooms.called[-1] == "stop"


def test_a_platform_that_ran_before_is_left_running(config: Config, rooms: Rooms) -> None:
    rooms.is_new = False
    rooms.fails["edge"] = UnreachableError(PORT_TAKEN)
    with pytest.raises(UnreachableError, match=PORT_TAKEN):
        up(config, rooms)
    assert not {"stop", "stop edge"} & set(rooms.called)


def test_a_model_that_does_not_come_up_stops_no_other(config: Config, rooms: Rooms) -> None:
    open_store(Path(config.paths.home)).close()
    rooms.fails["models"] = TealError("flights:1 does not come up in flights-blue")
    with pytest.raises(TealError, match="the platform runs, but not each of its models: flights:1 does not come up"):
        up(config, rooms)
    assert "running" in rooms.called
    assert "stop" not in rooms.called


def test_a_port_that_is_taken_is_named_before_anything_starts(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "_create_registry", lambda *_: None)
    port = config.cluster.ports.edge
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        with pytest.raises(TealError, match=f"port {port} is in use by pid .*set cluster.ports.edge to a free port"):
            platform.start_platform(config, Silent())
    assert read_state(config.paths.run) is None


def test_status_counts_the_replicas_that_answer_for_what_a_slot_holds(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    now = time.time()
    replica = Replica(
        replica_id="",
        endpoint=ENDPOINT,
        slot="blue",
        host="h",
        port=1,
        grpc_port=2,
        bundle_sha256="sha1",
        state="ready",
        at=now,
    )
    others: list[dict[str, Any]] = [
        {}, {}, {"state": "draining"}, {"at": now - 3600}, {"slot": "green"}, {"endpoint": "gone"},
    ]  # fmt: skip
    for number, change in enumerate(others):
        store.register_replica(replace(replica, replica_id=str(number), **change))
    ready = platform._ready_by_slot(store.endpoints(), store.replicas())
    assert ready == {ENDPOINT: {"blue": 2, "green": 0}}
    console = Console(width=200, file=io.StringIO(), force_terminal=True)
    store.set_share(ENDPOINT, 1000, actor="ann")
    console.print(endpoint_table(store.endpoints(), ready))
    written = console.file.getvalue()  # type: ignore[attr-defined]
    assert "\x1b[31m0" in written  # in red: traffic, and nobody to answer
    store.close()
