"""Ports for tests: free ones, and disjoint from those that another call took in this process."""

import os
import random
import socket
from dataclasses import fields

from runtime.cluster.ports import RANGES
from runtime.config.schema import PortsConfig

# Below 32768, as outgoing connections take theirs from above; apart from the ranges that clusters use by default.
LOWEST, HIGHEST = 10100, 19900
BLOCK = 200
RANGE_SIZES = {"replica": 25, "replica_grpc": 25, "worker": 100}

_taken: set[int] = set()


def free_ports_config() -> PortsConfig:
    """A PortsConfig whose ports are free now, all within one block of 200 that no other call in this process gets."""
    blocks = list(range(LOWEST, HIGHEST, BLOCK))
    random.Random(os.getpid() + len(_taken)).shuffle(blocks)
    for start in blocks:
        if start not in _taken and all(_is_free(port) for port in range(start, start + BLOCK)):
            _taken.add(start)
            return _layout(start)
    raise RuntimeError(f"no {BLOCK} free ports in a row between {LOWEST} and {HIGHEST}")


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
