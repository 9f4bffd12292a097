"""What start, stop and connect do before any Ray is involved."""

import os
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from runtime.cluster.free_ports import free_ports
from runtime.cluster.haproxy_program import find_haproxy, write_haproxy_program
from runtime.cluster.places import ClusterPlaces
from runtime.cluster.ray_process import connect, ray_start_command, start, stop
from runtime.cluster.token import ray_environment
from runtime.config.schema import Config
from runtime.core.errors import ConfigError, TealError, UnreachableError
from tests.cluster_config import cluster_config


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return cluster_config(tmp_path / "home", ports=free_ports())


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", ""])
def test_host_beyond_loopback_is_refused_and_nothing_is_written(tmp_path: Path, host: str) -> None:
    with pytest.raises(ConfigError, match=r"cluster\.host .* let others in by the edge alone"):
        start(cluster_config(tmp_path / "home", host=host))
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def blocked(config: Config) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", config.cluster.ports.serve)):
        yield config.cluster.ports.serve


def test_port_in_use_refuses_the_start_and_leaves_nothing(config: Config, blocked: int) -> None:
    with pytest.raises(TealError, match=rf"port {blocked} is in use by pid {os.getpid()} .* set cluster\.ports\.serve"):
        start(config)
    places = ClusterPlaces.of(config)
    assert not places.temp.exists()
    assert list(places.run.iterdir()) == []


def test_stop_without_a_cluster_does_nothing(config: Config) -> None:
    assert stop(config) is False
    assert stop(config) is False


def test_stop_clears_the_files_of_a_cluster_that_died(config: Config) -> None:
    places = ClusterPlaces.of(config)
    places.create()
    places.state.write_text("{")
    assert stop(config) is True
    assert not places.temp.exists()
    assert not places.state.exists()


def test_connect_without_a_cluster_says_how_to_start_one(config: Config) -> None:
    with pytest.raises(UnreachableError, match=r"no cluster is running for .*/home; start it with `teal up`"):
        connect(config)


def test_every_port_is_given_to_ray_or_belongs_to_teal(config: Config) -> None:
    given = " ".join([*ray_start_command(config, ClusterPlaces.of(config)), *ray_environment(config).values()])
    missing = {name for name, port in asdict(config.cluster.ports).items() if str(port) not in given}
    # Serve's own port is an option of serve.start, the others are bound by teal's actors and replicas.
    ours = {"edge", "edge_grpc", "monitor_metrics", "alerts_metrics", "listener_min", "listener_max"}
    assert missing == {"serve"} | ours


def test_haproxy_program_closes_what_ray_opens_and_keeps_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_SERVE_HAPROXY_BINARY_PATH", "/bin/echo")
    program, settings = tmp_path / "haproxy", tmp_path / "it's a temp" / "node" / "haproxy.cfg"
    settings.parent.mkdir(parents=True)
    write_haproxy_program(program, tmp_path / "it's a temp")
    settings.write_text("    bind :9101\n  bind *:8404\n    bind 127.0.0.1:8000\n    bind *:9000 proto h2\n")
    run = subprocess.run([program, "-db", "-f", settings, "-sf", "12"], capture_output=True, text=True, check=True)
    assert run.stdout == f"-db -f {settings} -sf 12\n"
    assert settings.read_text().splitlines() == [
        "    bind 127.0.0.1:9101",
        "  bind 127.0.0.1:8404",
        "    bind 127.0.0.1:8000",
        "    bind 127.0.0.1:9000 proto h2",
    ]


def test_haproxy_program_leaves_the_configuration_of_others_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_SERVE_HAPROXY_BINARY_PATH", "/bin/echo")
    program, settings = tmp_path / "haproxy", tmp_path / "edge.cfg"
    write_haproxy_program(program, tmp_path / "temp")
    settings.write_text("bind :8080\n")
    subprocess.run([program, "-f", settings], capture_output=True, check=True)
    assert settings.read_text() == "bind :8080\n"


def test_own_haproxy_program_never_runs_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_SERVE_HAPROXY_BINARY_PATH", str(tmp_path / "haproxy"))
    assert find_haproxy(tmp_path / "haproxy") != str(tmp_path / "haproxy")


def test_haproxy_that_is_named_but_not_there_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_SERVE_HAPROXY_BINARY_PATH", "/nowhere/haproxy")
    with pytest.raises(TealError, match="'/nowhere/haproxy' is not a program"):
        find_haproxy(tmp_path / "haproxy")
