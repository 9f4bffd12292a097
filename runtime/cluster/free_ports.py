"""Ports that are free now, for a cluster beside others: the demo and tests take theirs from here."""

import os
import random
import socket
from dataclasses import fields

from runtime.cluster.ports import RANGES
from runtime.config.cluster import PortsConfig
from runtime.core.errors import TealError

# Below 32768, as outgoing connections take theirs from above; apart from the ranges that clusters use by default.
BLOCK = 200
BLOCKS = (*range(10_100, 19_900, BLOCK), *range(21_100, 28_900, BLOCK))
RANGE_SIZES = {"listener": 60, "replica": 20, "replica_grpc": 20, "worker": 60}

_taken: set[int] = set()


def free_ports() -> PortsConfig:
    """A PortsConfig whose ports are free now, all within one block that no other call in this process got lately.

    TealError if there is none. Another process may take one of them before they are bound: `teal up` says so then.
    """
    for _ in range(2):
        blocks = [start for start in BLOCKS if start not in _taken]
        random.Random(os.getpid() + len(_taken)).shuffle(blocks)
        for start in blocks:
            _taken.add(start)
            if all(_is_free(port) for port in range(start, start + BLOCK)):
                return _layout(start)
        # Every block was given out once. Who still uses one listens in it.
        _taken.clear()
    raise TealError(f"no {BLOCK} free ports in a row within {BLOCKS[0]}..{BLOCKS[-1]}; stop what listens there")


def _layout(start: int) -> PortsConfig:
    names = [field.name for field in fields(PortsConfig) if field.name not in RANGES]
    values = {name: start + offset for offset, name in enumerate(names)}
    following = start + len(names)
    for name, size in RANGE_SIZES.items():
        values[f"{name}_min"], values[f"{name}_max"] = following, following + size - 1
        following += size
    return PortsConfig(**values)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
