"""What the store returns: plain frozen values."""

from dataclasses import dataclass
from typing import Any, Literal

Slot = Literal["blue", "green"]
ReplicaState = Literal["ready", "draining"]
ApprovalState = Literal["pending", "approved", "denied"]
Fencing = tuple[str, int]
"""Name of a lease and the token under which a change is made."""
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
class Head:
    """The last row of the audit chain at some moment."""

    sequence: int
    hash: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Lease:
    """The right to act in a name, for a time. Only the highest token of a name may write."""

    name: str
    holder: str
    token: int
    expires_at: float
    """Seconds since 1970."""

    @property
    def fencing(self) -> Fencing:
        return self.name, self.token


@dataclass(frozen=True, kw_only=True, slots=True)
class Approval:
    """A second person's word on something: asked for, then approved or denied once."""

    id: str
    kind: str
    subject: str
    """What is to be approved, by a name that cannot come to mean something else: a version, a rollout's id."""
    endpoint: str
    author: str
    detail: dict[str, Any]
    requested_at: str
    state: ApprovalState
    decided_by: str | None
    decided_at: str | None
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One event on its way to one consumer, who gets it at least once."""

    id: int
    consumer: str
    event_id: str
    """The same at every delivery and for every consumer: what a receiver tells repetitions by."""
    topic: str
    payload: dict[str, Any]
    created_at: float
    num_attempts: int
    next_at: float
    error: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a command with an idempotency key gave."""

    value: dict[str, Any]
    is_repeated: bool
    """True if the command was not run again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Replica:
    """One serving process of a slot, and where edges reach it."""

    replica_id: str
    endpoint: str
    slot: Slot
    host: str
    port: int
    grpc_port: int | None
    bundle_sha256: str
    """Of the model that it serves, which during a redeploy differs from the slot's."""
    state: ReplicaState
    at: float
    """Its last sign of life, in seconds since 1970."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EdgeLimits:
    """What edges hold one endpoint to: those of its serving settings that replicas do not enforce alone."""

    endpoint: str
    max_body_bytes: int
    max_ongoing_requests: int
    max_waiting_requests: int
    answer_timeout_s: float
    may_sleep: bool
    """Whether a slot with traffic may be without replicas until somebody asks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GateRecord:
    at: str
    holdout: str
    """Name of the rows that were compared on."""
    candidate: str
    champion: str | None
    verdict: str
    report: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class BackupSummary:
    path: str
    revision: str
    """Of the schema that the rows have."""
    num_rows: dict[str, int]
    """Table to rows."""
    head: Head | None
    sha256: str
    """Of everything in the file before its last line."""
    faults: list[str]
    """What `teal audit verify` finds in the rows; a backup is written all the same."""
    at: str = ""
    """When it was written, ISO 8601 in UTC."""
    kept_revocations: tuple[str, ...] = ()
    """Tokens that are valid in the backup and were revoked since, by id. A restore leaves them revoked."""
    restored_rights: tuple[str, ...] = ()
    """Principals whose rights were others before the restore."""
    num_unchecked_tokens: int = 0
    """Valid after the restore, while the replaced store knew nothing of them: they may have been revoked since."""
