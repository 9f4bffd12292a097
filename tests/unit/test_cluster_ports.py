"""Who holds a port."""

import os
import socket
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from runtime.cluster import free_ports as free_ports_module
from runtime.cluster.free_ports import free_ports
from runtime.cluster.ports import (
    RANGES,
    Listener,
    check_free,
    listeners,
    non_loopback_listeners,
    port_owner,
    single_ports,
)
from runtime.config.cluster import PortsConfig
from runtime.core.errors import TealError

HEADER = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


def line(address: str, state: str, inode: int) -> str:
    return f"   0: {address} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000     0        0 {inode} 1\n"


@pytest.fixture
def bound() -> Iterator[tuple[int, int]]:
    """Ports of one listener on loopback and of one on all interfaces, both of this process."""
    with socket.create_server(("127.0.0.1", 0)) as closed, socket.create_server(("0.0.0.0", 0)) as exposed:
        yield closed.getsockname()[1], exposed.getsockname()[1]


def test_listeners_are_read_from_both_tables_and_connections_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    table = HEADER + line("0100007F:1F90", "0A", 11) + line("0100007F:1F91", "01", 12) + line("00000000:20D4", "0A", 13)
    (tmp_path / "net" / "tcp").write_text(table)
    table6 = HEADER + line("0000000000000000FFFF00000100007F:2711", "0A", 14) + line("0" * 32 + ":18EB", "0A", 15)
    (tmp_path / "net" / "tcp6").write_text(table6)
    found = listeners(tmp_path)
    assert [(listener.port, listener.is_loopback, listener.inode) for listener in found] == [
        (8080, True, 11),
        (8404, False, 13),
        (10001, True, 14),
        (6379, False, 15),
    ]
    assert found[0] == Listener(address="127.0.0.1", port=8080, inode=11)


def test_machine_without_ipv6_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "tcp").write_text(HEADER)
    assert listeners(tmp_path) == []


def test_owner_of_a_port_is_named_with_pid_command_and_address(bound: tuple[int, int]) -> None:
    owner = port_owner(bound[0])
    assert owner is not None
    assert (owner.pid, owner.address) == (os.getpid(), "127.0.0.1")
    assert "py" in owner.command


def test_free_port_has_no_owner() -> None:
    assert port_owner(free_ports().edge) is None


def test_only_what_other_machines_may_reach_is_exposed(bound: tuple[int, int]) -> None:
    ports = [listener.port for listener in non_loopback_listeners({os.getpid()})]
    assert bound[1] in ports
    assert bound[0] not in ports
    assert non_loopback_listeners({os.getpid() + 1_000_000}) == []


def test_port_in_use_is_an_error_that_names_port_owner_and_key(bound: tuple[int, int]) -> None:
    with pytest.raises(TealError) as caught:
        check_free({"cluster.ports.edge": bound[0], "cluster.ports.serve": free_ports().serve})
    message = str(caught.value)
    assert f"port {bound[0]} is in use by pid {os.getpid()} (" in message
    assert "set cluster.ports.edge to a free port" in message
    assert "cluster.ports.serve" not in message


def test_two_keys_with_one_port_are_an_error() -> None:
    with pytest.raises(TealError, match=r"cluster\.ports\.edge and cluster\.ports\.serve are both 8080"):
        check_free({"cluster.ports.edge": 8080, "cluster.ports.serve": 8080})


def test_default_ports_are_disjoint_and_below_those_of_outgoing_connections() -> None:
    ports = single_ports(PortsConfig())
    assert len(set(ports.values())) == len(ports)
    assert max(asdict(PortsConfig()).values()) < 32768
    assert not {key.rpartition(".")[2] for key in ports} & set(RANGES)


@pytest.mark.parametrize(
    ("ports", "message"),
    [
        ({"edge": 80}, "edge must be within 1024..65535 but got 80"),
        ({"serve": 70000}, "serve must be within 1024..65535 but got 70000"),
        ({"worker_min": 5000, "worker_max": 4000}, "worker_min 5000 is above worker_max"),
    ],
)
def test_port_that_cannot_be_bound_is_refused(ports: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PortsConfig(**ports)


def test_free_ports_do_not_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(free_ports_module, "_taken", set())
    starts = [min(asdict(free_ports()).values()) for _ in range(2)]
    monkeypatch.setattr(free_ports_module, "BLOCKS", starts)
    monkeypatch.setattr(free_ports_module, "_taken", set())
    edges = [free_ports().edge for _ in range(5)]
    assert len(set(edges)) == 2
    assert edges[0] != edges[1]


def test_free_ports_of_two_calls_are_disjoint() -> None:
    first, second = asdict(free_ports()), asdict(free_ports())
    assert len(set(first.values())) == len(first)
    assert not set(first.values()) & set(second.values())
    assert max(first.values()) < min(second.values()) or max(second.values()) < min(first.values())
