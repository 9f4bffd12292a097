"""The audit chain: each row's hash covers its content and the hash before it."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from runtime.core.hashing import sha256_json
from runtime.store.records import Transition

GENESIS = "0" * 64
COVERED = ("sequence", "at", "endpoint", "generation", "actor", "action", "forced", "detail", "previous_hash")


def chain_hash(row: Mapping[str, Any]) -> str:
    """Hex sha256 over everything in the row but its own hash."""
    return sha256_json({name: row[name] for name in COVERED})


def find_breaks(transitions: Iterable[Transition]) -> list[str]:
    """What is wrong with the chain, one line a fault; empty if every row is where and as it was written."""
    faults = []
    previous_hash, expected_sequence = GENESIS, 1
    for transition in transitions:
        if transition.sequence != expected_sequence:
            faults.append(f"row {expected_sequence} is missing: found {transition.sequence} in its place")
        if transition.previous_hash != previous_hash:
            faults.append(f"row {transition.sequence} does not follow the row before it")
        if chain_hash(asdict(transition)) != transition.hash:
            faults.append(f"row {transition.sequence} was changed after it was written")
        previous_hash, expected_sequence = transition.hash, transition.sequence + 1
    return faults
