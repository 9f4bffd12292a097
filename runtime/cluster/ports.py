"""Who holds a TCP port, from /proc (Linux)."""

import ipaddress
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from runtime.cluster.processes import PROC, open_files, read_process
from runtime.config.cluster import PortsConfig
from runtime.core.errors import TealError

LISTEN = "0A"
RANGES = tuple(f"{name}_{end}" for name in ("listener", "replica", "replica_grpc", "worker") for end in ("min", "max"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Listener:
    address: str
    port: int
    inode: int

    @property
    def is_loopback(self) -> bool:
        address = ipaddress.ip_address(self.address)
        mapped = getattr(address, "ipv4_mapped", None)
        return (mapped or address).is_loopback


@dataclass(frozen=True, kw_only=True, slots=True)
class PortOwner:
    address: str
    port: int
    pid: int | None
    """None if the owner belongs to another user."""
    command: str


def listeners(proc: Path = PROC) -> list[Listener]:
    """Every listening TCP socket of this machine (of this network namespace)."""
    found = []
    for name in ("tcp", "tcp6"):
        try:
            lines = (proc / "net" / name).read_text().splitlines()[1:]
        except FileNotFoundError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == LISTEN:
                address, _, port = fields[1].rpartition(":")
                found.append(Listener(address=_parse_address(address), port=int(port, 16), inode=int(fields[9])))
    return found


def _parse_address(text: str) -> str:
    """An address of /proc/net/tcp: 32 bit words as hex in the machine's byte order."""
    words = [int(text[start : start + 8], 16).to_bytes(4, sys.byteorder) for start in range(0, len(text), 8)]
    return str(ipaddress.ip_address(b"".join(words)))


def socket_pids(inodes: Collection[int], proc: Path = PROC) -> dict[int, int]:
    """Socket inode to the pid that has it open, for those of processes whose descriptors this user may read."""
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    found: dict[int, int] = {}
    for entry in proc.iterdir():
        if not entry.name.isdigit():
            continue
        for file in open_files(entry):
            if str(file) in wanted:
                found.setdefault(wanted[str(file)], int(entry.name))
    return found


def port_owners(ports: Collection[int], proc: Path = PROC) -> dict[int, PortOwner]:
    """Port to who listens on it, for those that are in use."""
    held = [listener for listener in listeners(proc) if listener.port in ports]
    pids = socket_pids([listener.inode for listener in held], proc)
    owners: dict[int, PortOwner] = {}
    for listener in held:
        pid = pids.get(listener.inode)
        process = read_process(pid, proc) if pid is not None else None
        command = process.command if process else "a process of another user"
        owners.setdefault(
            listener.port, PortOwner(address=listener.address, port=listener.port, pid=pid, command=command)
        )
    return owners


def port_owner(port: int) -> PortOwner | None:
    return port_owners([port]).get(port)


def single_ports(ports: PortsConfig) -> dict[str, int]:
    """Config key to port, without the ranges: Ray takes what is free within those."""
    names = [name for name in PortsConfig.__dataclass_fields__ if name not in RANGES]
    return {f"cluster.ports.{name}": getattr(ports, name) for name in names}


def check_free(ports: Mapping[str, int]) -> None:
    """TealError if two keys name one port, or if a port is in use: names it, its owner and the key to change."""
    by_port: dict[int, str] = {}
    for key, port in ports.items():
        if port in by_port:
            raise TealError(f"{by_port[port]} and {key} are both {port}; give one of them another port")
        by_port[port] = key
    owners = port_owners(by_port)
    if not owners:
        return
    lines = [
        f"port {port} is in use by {describe_owner(owner)}; end it or set {by_port[port]} to a free port"
        for port, owner in sorted(owners.items())
    ]
    raise TealError("\n".join(lines))


def describe_owner(owner: PortOwner) -> str:
    if owner.pid is None:
        return f"{owner.command} (on {owner.address})"
    return f"pid {owner.pid} ({owner.command[:100]}, on {owner.address})"


def non_loopback_listeners(pids: Collection[int]) -> list[PortOwner]:
    """What these processes listen on that other machines may reach."""
    exposed = [listener for listener in listeners() if not listener.is_loopback]
    owners = socket_pids([listener.inode for listener in exposed])
    found = []
    for listener in exposed:
        pid = owners.get(listener.inode)
        if pid in pids and pid is not None:
            process = read_process(pid)
            command = process.command if process else ""
            found.append(PortOwner(address=listener.address, port=listener.port, pid=pid, command=command))
    return found
