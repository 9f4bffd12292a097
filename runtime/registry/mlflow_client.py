"""The only import of MLflow: quiet, without telemetry, without pickle, its database made before anyone uses it."""

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

if TYPE_CHECKING:
    from mlflow import MlflowClient

ENVIRONMENT = {
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "GIT_PYTHON_REFRESH": "quiet",
}


def import_mlflow() -> Any:
    """The mlflow module. Takes seconds the first time, which is why nothing imports it at module level."""
    # MLflow reads these when it is imported; a value of the user's own stands, but for pickle.
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    logging.getLogger("alembic").setLevel(logging.WARNING)
    import mlflow

    return mlflow


def connect(tracking_uri: str) -> "MlflowClient":
    """A client of this server or database, which is created if it is a new SQLite file."""
    mlflow = import_mlflow()
    with _creation_lock(tracking_uri):
        client: MlflowClient = mlflow.MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
        # The first question creates the tables: three processes that ask it of one new SQLite file at once ruin it.
        client.search_experiments(max_results=1)
        client.search_registered_models(max_results=1)
    return client


@contextmanager
def _creation_lock(tracking_uri: str) -> Iterator[None]:
    path = _sqlite_path(tracking_uri)
    if path is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _sqlite_path(tracking_uri: str) -> Path | None:
    try:
        url = make_url(tracking_uri)
    except ArgumentError:
        return None
    return Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None
