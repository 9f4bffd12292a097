"""The control store: all of it in one object."""

from typing import Self

from runtime.config.schema import PathsConfig
from runtime.store.alerts import AlertStore
from runtime.store.answers import AnswerStore
from runtime.store.approvals import ApprovalStore
from runtime.store.chain import witness_for
from runtime.store.edges import EdgeStore
from runtime.store.leases import LeaseStore
from runtime.store.lineage import LineageStore
from runtime.store.monitor_counts import MonitorStore
from runtime.store.outbox import OutboxStore
from runtime.store.principals import PrincipalStore
from runtime.store.replicas import ReplicaStore
from runtime.store.restoring import RestorableStore
from runtime.store.trainings import TrainingStore


class ControlStore(
    RestorableStore,
    ApprovalStore,
    LineageStore,
    EdgeStore,
    ReplicaStore,
    LeaseStore,
    OutboxStore,
    AnswerStore,
    PrincipalStore,
    AlertStore,
    TrainingStore,
    MonitorStore,
):
    """Desired state and audit chain, beside the lineage. Safe to open in many processes at once."""

    @classmethod
    def of(cls, paths: PathsConfig) -> Self:
        """The store of a configuration, with the witness of its audit chain on this machine."""
        return cls(paths.control, witness=witness_for(paths))
