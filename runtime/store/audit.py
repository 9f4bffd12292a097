"""The audit chain's rules: each row's hash covers its content and the hash before it.

What can be found: a row changed, removed or reordered anywhere before the end, always. Rows removed at the end, or the
whole chain written anew, only against a head that was noted outside the database. Knows no database.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from runtime.core.hashing import sha256_json
from runtime.store.records import SLOTS, EndpointState, Head, Transition

GENESIS = "0" * 64
COVERED = ("sequence", "at", "endpoint", "generation", "actor", "action", "forced", "detail", "previous_hash")


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    num_rows: int
    faults: list[str]
    head: Head | None
    compared_with: list[str]
    """What outside the database the chain's end was compared with; empty means that its end is taken on trust."""


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


def find_differences(transitions: Sequence[Transition], noted: Iterable[tuple[str, Head]]) -> list[str]:
    """Where the chain is not the one whose end was noted elsewhere, one line a note."""
    hashes = {transition.sequence: transition.hash for transition in transitions}
    faults = []
    for name, head in noted:
        if head.sequence not in hashes:
            faults.append(
                f"row {head.sequence}, which {name} knows, is gone: the chain ends at {max(hashes, default=0)}"
            )
        elif hashes[head.sequence] != head.hash:
            faults.append(f"row {head.sequence} is not the one that {name} knows: the chain was written anew")
    return faults


def find_drift(transitions: Iterable[Transition], endpoints: Iterable[EndpointState]) -> list[str]:
    """Endpoints that are not what the chain's rows made of them: changed past the store, one line a difference."""
    replayed: dict[str, dict[str, Any]] = {}
    for row in transitions:
        if not row.endpoint:
            continue
        state = replayed.setdefault(row.endpoint, {"share": 0})
        state["generation"] = row.generation
        if row.action == "assign":
            state.setdefault("primary", row.detail["slot"])
            state[row.detail["slot"]] = (row.detail["model"], row.detail["bundle_sha256"])
        elif row.action == "promote":
            state |= {"primary": row.detail["primary"], "share": 0}
        elif "to" in row.detail and "canary" in row.detail:
            state["share"] = row.detail["to"]
    faults = []
    for endpoint in endpoints:
        found: dict[str, Any] = {
            "generation": endpoint.generation,
            "primary": endpoint.primary,
            "share": endpoint.share,
        }
        for slot in SLOTS:
            model = endpoint.slot(slot).model
            found[slot] = None if model is None else (model.label, model.bundle_sha256)
        expected = replayed.get(endpoint.name, {})
        faults += [
            f"{name} of endpoint {endpoint.name!r} is {value}, but the chain made it {expected.get(name)}"
            for name, value in found.items()
            if value != expected.get(name)
        ]
    return faults
