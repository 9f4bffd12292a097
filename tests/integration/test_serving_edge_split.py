"""The split of the real edge against its arithmetic: each key's very bucket, and keys that stay where they are."""

import re
import socket
from collections.abc import Sequence

import numpy as np

from runtime.store.records import FULL_SHARE
from tests.serving_edge import Edge
from tests.serving_split import KINDS, buckets_of

NUM_KEYS = 10_000
BUCKETS = sorted({0, 1, 9, 99, 100, 999, 1000, 4999, 5000, 8191, 8192, 9998, 9999} | set(range(317, 10_000, 613)))
SHARES = (0, 1, 10, 100, 500, 1000, 2500, 5000, 7500, 9900, 9999, 10_000)
AT_ONCE = 250
SLOT = re.compile(rb"\r\nx-slot: (blue|green)\r\n")
ODD_KEYS = ("", "a,b", "a  b", "x" * 1000, "ünï", "\u2603", "A", "a", "%61", '"q"', "a;b=c", "0", "00")


def slots_of(edge: Edge, keys: Sequence[str]) -> list[str]:
    """The slot that each key falls on, asked of the edge itself, which says so with no replica behind it as well."""
    found: list[bytes] = []
    with socket.create_connection((edge.cluster.host, edge.cluster.ports.edge), timeout=20) as connection:
        for start in range(0, len(keys), AT_ONCE):
            part = keys[start : start + AT_ONCE]
            heads = (
                b"GET /v2/models/e/ready HTTP/1.1\r\nhost: e\r\nx-routing-key: %b\r\n\r\n" % k.encode() for k in part
            )
            connection.sendall(b"".join(heads))
            answers = b""
            while len(slots := SLOT.findall(answers)) < len(part):
                received = connection.recv(1 << 20)
                assert received, answers[-500:]
                answers += received
            found += slots
    return [slot.decode() for slot in found]


def test_the_edge_puts_each_key_into_the_bucket_that_xxh32_says(lonely_edge: Edge) -> None:
    """A key of bucket b is on blue at share b, and on green at b + 1: no other bucket is."""
    candidates = [key for make in KINDS.values() for key in make(720_000)]
    buckets = buckets_of(candidates)
    num_checked = 0
    for bucket in BUCKETS:
        keys = [candidates[place] for place in np.flatnonzero(buckets == bucket)]
        num_checked += len(keys)
        lonely_edge.give(bucket)
        assert set(slots_of(lonely_edge, keys)) == {"blue"}
        lonely_edge.give(bucket + 1)
        assert set(slots_of(lonely_edge, keys)) == {"green"}
    assert num_checked >= NUM_KEYS


def test_on_the_edge_a_rising_share_never_moves_a_key_back(lonely_edge: Edge) -> None:
    keys = [key for make in KINDS.values() for key in make(300)] + list(ODD_KEYS[1:])
    buckets = buckets_of(keys)
    green: set[str] = set()
    for share in SHARES:
        lonely_edge.give(share)
        slots = slots_of(lonely_edge, keys)
        assert slots == ["green" if bucket < share else "blue" for bucket in buckets]
        now = {key for key, slot in zip(keys, slots, strict=True) if slot == "green"}
        assert green <= now
        green = now
    assert len(green) == len(set(keys))
    assert SHARES[-1] == FULL_SHARE
