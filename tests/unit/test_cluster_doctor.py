"""The doctor's judgements, on measurements made up here."""

from pathlib import Path

import pytest

from runtime.cluster.doctor import (
    GIB,
    Finding,
    examine,
    examine_disk,
    examine_environment,
    examine_exposure,
    examine_haproxy_version,
    examine_home_token,
    examine_leftovers,
    examine_memory,
    examine_modes,
    examine_open_files,
    examine_ports,
    examine_versions,
    read_available_bytes,
    read_constraints,
)
from runtime.cluster.free_ports import free_ports
from runtime.cluster.ports import PortOwner
from runtime.cluster.processes import Process
from tests.cluster_config import cluster_config


def process(pid: int, command: str) -> Process:
    return Process(pid=pid, start_ticks=1, parent=1, command=command)


def statuses(findings: list[Finding]) -> list[str]:
    return [finding.status for finding in findings]


def test_versions_are_held_against_the_constraints(tmp_path: Path) -> None:
    (tmp_path / "constraints.txt").write_text("# exact==no\nray==2.60.0\ntorch==2.13.0\nmlflow==3.17.2\n")
    constraints = read_constraints(tmp_path / "constraints.txt")
    assert constraints == {"ray": "2.60.0", "torch": "2.13.0", "mlflow": "3.17.2"}
    installed = {"ray": "2.60.0", "torch": "2.13.0+cpu", "mlflow": "1.26.1", "pyarrow": None}
    findings = examine_versions(installed, constraints)
    assert statuses(findings) == ["ok", "ok", "warning", "error"]
    assert findings[2].detail == "1.26.1, but constraints.txt says 3.17.2"
    assert "constraints.txt mlflow" in findings[2].remedy
    assert read_constraints(tmp_path / "none") == {}


def test_port_of_another_is_an_error_and_our_own_is_not() -> None:
    owners = {
        8080: PortOwner(address="127.0.0.1", port=8080, pid=7, command="nginx"),
        8000: PortOwner(address="127.0.0.1", port=8000, pid=8, command="haproxy"),
    }
    ports = {"cluster.ports.edge": 8080, "cluster.ports.serve": 8000, "cluster.ports.gcs": 6379}
    summary, foreign = examine_ports(ports, owners, {8})
    assert summary.detail == "1 free, 1 held by this cluster"
    assert foreign.status == "error"
    assert foreign.detail == "8080 (cluster.ports.edge) is held by pid 7 (nginx, on 127.0.0.1)"
    assert "set cluster.ports.edge" in foreign.remedy


def test_exposed_listener_is_a_warning_with_its_port() -> None:
    assert statuses(examine_exposure([])) == ["ok"]
    (finding,) = examine_exposure([PortOwner(address="0.0.0.0", port=8404, pid=9, command="haproxy")])
    assert finding.status == "warning"
    assert "port 8404 listens on 0.0.0.0: pid 9" in finding.detail


def test_modes_of_secrets_are_examined_deeply(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "edge").mkdir(parents=True)
    run.chmod(0o755)
    for name, mode in {"ray_token": 0o600, "edge/secret": 0o640, "ray_start.log": 0o644}.items():
        (run / name).write_text("x")
        (run / name).chmod(mode)
    (finding,) = examine_modes(run)
    assert finding.detail == f"{run}/edge/secret has mode 0640"
    assert finding.remedy == f"chmod 600 {run}/edge/secret"
    (run / "edge" / "secret").chmod(0o600)
    assert statuses(examine_modes(run)) == ["ok"]
    run.chmod(0o777)
    assert statuses(examine_modes(run)) == ["error"]
    assert statuses(examine_modes(tmp_path / "none")) == ["ok"]


def test_haproxy_that_outlived_its_raylet_is_found_and_a_living_one_is_not() -> None:
    raylet = process(
        1, "/x/ray/core/src/ray/raylet/raylet --raylet_socket_name=/tmp/teal-aaaaaaaa/session/sockets/raylet"
    )
    alive = process(2, "/x/haproxy -db -f /tmp/teal-aaaaaaaa/haproxy/n/haproxy.cfg -dR")
    orphan = process(3, "/x/haproxy -db -f /tmp/teal-bbbbbbbb/haproxy/n/haproxy.cfg -dR")
    ours = process(4, "/x/haproxy -db -f /tmp/teal-cccccccc/haproxy/n/haproxy.cfg -dR")
    edge = process(5, "/x/haproxy -W -f /home/me/.teal/run/edge/haproxy.cfg")
    viewer = process(6, "tail -f /tmp/teal-bbbbbbbb/haproxy/log")
    (finding,) = examine_leftovers([raylet, alive, orphan, ours, edge, viewer], Path("/tmp"), {4})
    assert finding.status == "error"
    assert finding.remedy == "kill 3"
    assert statuses(examine_leftovers([raylet, alive], Path("/tmp"), set())) == ["ok"]


def test_haproxy_of_a_plain_ray_is_a_leftover_only_without_any_raylet() -> None:
    haproxy = process(3, "/x/haproxy -db -f /tmp/haproxy-serve/n/haproxy.cfg -dR")
    raylet = process(1, "/x/ray/core/src/ray/raylet/raylet --raylet_socket_name=/tmp/ray/session/sockets/raylet")
    assert statuses(examine_leftovers([haproxy], Path("/tmp"), set())) == ["error"]
    assert statuses(examine_leftovers([haproxy, raylet], Path("/tmp"), set())) == ["ok"]


@pytest.mark.parametrize(
    ("output", "status"),
    [
        ("HAProxy version 2.8.25-0 2026/01/01", "ok"),
        ("HAProxy version 3.1.2", "ok"),
        ("HA-Proxy version 2.4.1", "error"),
        ("usage: echo", "error"),
    ],
)
def test_haproxy_must_be_28_or_newer(output: str, status: str) -> None:
    assert examine_haproxy_version("/x/haproxy", output).status == status


@pytest.mark.parametrize(("free_gib", "status"), [(50, "ok"), (3, "warning"), (0.5, "error")])
def test_disk(free_gib: float, status: str) -> None:
    assert examine_disk(int(free_gib * GIB), "/home").status == status


def test_memory_is_needed_only_for_a_start(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:  8000000 kB\nMemAvailable:  1048576 kB\n")
    available = read_available_bytes(tmp_path / "meminfo")
    assert available == GIB
    assert examine_memory(available, GIB, is_running=False).status == "warning"
    assert examine_memory(available, GIB, is_running=True).status == "ok"
    assert examine_memory(4 * GIB, GIB, is_running=False).status == "ok"


@pytest.mark.parametrize(("limit", "status"), [(-1, "ok"), (1 << 20, "ok"), (1024, "warning")])
def test_open_files(limit: int, status: str) -> None:
    assert examine_open_files(limit).status == status


def test_variables_that_mislead_other_programs_are_named() -> None:
    (finding,) = examine_environment({"RAY_ADDRESS": "auto", "HOME": "/root"})
    assert finding.remedy == "unset RAY_ADDRESS"


def test_token_in_the_home_directory_is_a_trap(tmp_path: Path) -> None:
    assert examine_home_token(tmp_path / "auth_token").status == "ok"
    (tmp_path / "auth_token").write_text("x")
    (tmp_path / "auth_token").chmod(0o644)
    finding = examine_home_token(tmp_path / "auth_token")
    assert (finding.status, "mode 0644" in finding.detail) == ("warning", True)


def test_this_machine_can_be_examined_without_changing_anything(tmp_path: Path) -> None:
    findings = examine(cluster_config(tmp_path / "home", ports=free_ports()))
    by_name = {finding.name: finding for finding in findings}
    assert by_name["cluster"].detail == "is not running"
    assert by_name["ports"].status == by_name["exposure"].status == by_name["haproxy"].status == "ok"
    assert all(finding.remedy for finding in findings if finding.status != "ok")
    assert list(tmp_path.iterdir()) == []
