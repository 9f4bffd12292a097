"""`flights`, `flights:3`, `flights@champion`: names of model versions, resolved by the control store alone."""

import re

from runtime.core.errors import NotFoundError, UsageError
from runtime.store.control import ControlStore
from runtime.store.records import ModelVersion

_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_REFERENCE = re.compile(rf"(?P<name>{_NAME.pattern})(?::(?P<version>[0-9]+)|@(?P<alias>{_NAME.pattern}))?")


def resolve(store: ControlStore, reference: str) -> ModelVersion:
    """The version that a reference names; the newest where it names none.

    Raises UsageError for a malformed reference, NotFoundError where it leads nowhere.
    """
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        raise UsageError(f"model reference {reference!r} must look like 'name', 'name:3' or 'name@champion'")
    name, version, alias = match["name"], match["version"], match["alias"]
    if alias is None:
        return store.model_version(name, None if version is None else int(version))
    found = store.alias(name, alias)
    if found is None:
        newest = store.model_version(name)
        raise NotFoundError(f"model {name!r} has no alias {alias!r}; its newest version is {newest.version}")
    return found


def check_name(name: str) -> None:
    """UsageError for a name that no reference could hold."""
    if _NAME.fullmatch(name) is None:
        raise UsageError(f"model name {name!r} must be letters, digits, '_', '-' and '.'")
