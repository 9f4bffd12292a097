"""What the store returns: plain frozen values."""

from dataclasses import dataclass
from typing import Any, Literal

Slot = Literal["blue", "green"]
SLOTS: tuple[Slot, Slot] = ("blue", "green")
FULL_SHARE = 10_000
"""A share is an integer in basis points, 0..10000."""


def other_slot(slot: Slot) -> Slot:
    return "green" if slot == "blue" else "blue"


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelVersion:
    name: str
    version: int
    run_id: str
    bundle_uri: str
    """Directory of the bundle."""
    bundle_sha256: str
    """Hash of the bundle's manifest, which names the hashes of its other files."""
    lineage: dict[str, Any]
    created_at: str

    @property
    def label(self) -> str:
        return f"{self.name}:{self.version}"


@dataclass(frozen=True, kw_only=True, slots=True)
class DataVersion:
    table: str
    version: int
    """The Delta version."""
    uri: str
    num_rows: int
    fingerprint: str
    """Order-independent hash of the rows."""
    lineage: dict[str, Any]
    """Source hashes, configuration hash, code version, contract, counts of refused rows."""
    created_at: str

    @property
    def label(self) -> str:
        return f"{self.table}@{self.version}"


@dataclass(frozen=True, kw_only=True, slots=True)
class SlotState:
    slot: Slot
    model: ModelVersion | None


@dataclass(frozen=True, kw_only=True, slots=True)
class EndpointState:
    """Desired state of one endpoint at one generation."""

    name: str
    generation: int
    primary: Slot
    share: int
    """Basis points of the canary, which is the slot that is not primary."""
    blue: SlotState
    green: SlotState

    @property
    def canary(self) -> Slot:
        return other_slot(self.primary)

    @property
    def green_share(self) -> int:
        """Basis points that the green slot gets, whichever role it has."""
        return self.share if self.canary == "green" else FULL_SHARE - self.share

    def slot(self, slot: Slot) -> SlotState:
        return self.blue if slot == "blue" else self.green

    def slot_share(self, slot: Slot) -> int:
        return self.green_share if slot == "green" else FULL_SHARE - self.green_share


@dataclass(frozen=True, kw_only=True, slots=True)
class Transition:
    """One row of the audit chain."""

    sequence: int
    at: str
    endpoint: str
    generation: int
    actor: str
    action: str
    forced: bool
    detail: dict[str, Any]
    previous_hash: str
    hash: str


@dataclass(frozen=True, kw_only=True, slots=True)
class GateRecord:
    at: str
    holdout: str
    """Name of the rows that were compared on."""
    candidate: str
    champion: str | None
    verdict: str
    report: dict[str, Any]
