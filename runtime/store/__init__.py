"""Control state in SQL: what should be true, who changed it, what was built from what."""

from runtime.store.control import ControlStore
from runtime.store.records import DataVersion, EndpointState, GateRecord, ModelVersion, Replica, SlotState, Transition

__all__ = [
    "ControlStore",
    "DataVersion",
    "EndpointState",
    "GateRecord",
    "ModelVersion",
    "Replica",
    "SlotState",
    "Transition",
]
