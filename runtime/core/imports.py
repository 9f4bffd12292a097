"""Objects named by import path, `package.module:name`, from an allow-list of packages."""

import importlib
from collections.abc import Sequence
from typing import Any

from runtime.core.errors import ConfigError


def load_object(import_path: str, allowed_modules: Sequence[str]) -> Any:
    """The object at `package.module:name`.

    Raises ConfigError if the path is malformed, its module is not within `allowed_modules`, or it does not import.
    Nothing outside the allow-list is imported: importing is running code.
    """
    module_name, colon, name = import_path.partition(":")
    if not colon or not module_name or not name.isidentifier():
        raise ConfigError(f"import path {import_path!r} must look like 'package.module:name'")
    if not any(module_name == allowed or module_name.startswith(f"{allowed}.") for allowed in allowed_modules):
        raise ConfigError(
            f"import path {import_path!r} is outside the allowed modules {sorted(allowed_modules)}; "
            "add its package to model.allowed_modules if you trust it"
        )
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(f"cannot import {module_name!r} of {import_path!r}: {error}") from error
    if not hasattr(module, name):
        raise ConfigError(f"module {module_name!r} has no {name!r}")
    return getattr(module, name)
