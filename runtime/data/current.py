"""A table's current version: what its last `prepare` gave; not the newest where the same inputs had made it before.

It is remembered apart from the versions: going back to an older one writes nothing.
"""

from runtime.store.control import ControlStore
from runtime.store.records import DataVersion

STEP_NAME = "current"


def current_version(store: ControlStore, table: str) -> DataVersion:
    """NotFoundError if nothing was prepared. A table from before this was remembered gives its newest."""
    outputs = store.step_outputs(_key(table))
    return store.data_version(table, None if outputs is None else int(outputs["version"]))


def make_current(store: ControlStore, version: DataVersion) -> None:
    outputs = {"version": version.version}
    if store.step_outputs(_key(version.table)) != outputs:
        store.record_step(_key(version.table), STEP_NAME, outputs)


def _key(table: str) -> str:
    return f"{STEP_NAME}/{table}"
