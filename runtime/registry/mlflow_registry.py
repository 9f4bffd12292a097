"""Runs in MLflow, model versions in MLflow and in the control store. The store is the truth; MLflow shows it."""

import tempfile
import time
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from runtime.config.schema import PathsConfig
from runtime.core.clock import utc_now
from runtime.core.errors import ConflictError
from runtime.models.manifest import Manifest, manifest_sha256, read_manifest
from runtime.registry import references
from runtime.registry.mlflow_client import connect, import_mlflow
from runtime.store.control import ControlStore
from runtime.store.records import ModelVersion

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.models import ModelSignature

RunStatus = Literal["FINISHED", "FAILED", "KILLED"]
BUNDLE_TAG = "teal.bundle_sha256"
PARENT_TAG = "mlflow.parentRunId"
PARAM_CHARACTERS = 6000
"""MLflow refuses a longer parameter."""
BATCH_PARAMS, BATCH_METRICS = 100, 1000
LOADER_MODULE = "runtime.registry.loader"


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """A metric's value at a step."""

    name: str
    value: float
    step: int


class Registry:
    """Making one costs nothing: MLflow is imported and connected to when first needed, never to resolve a version."""

    def __init__(self, paths: PathsConfig, store: ControlStore) -> None:
        self._paths = paths
        self._store = store
        self._experiments: dict[str, str] = {}

    def create_database(self) -> None:
        """Make MLflow's database. Idempotent; call it before workers start."""
        self._client.search_experiments(max_results=1)

    # -- runs ------------------------------------------------------------------------------------------------------

    def start_run(
        self,
        name: str,
        experiment: str,
        tags: Mapping[str, str],
        params: Mapping[str, Any],
        parent_run_id: str | None = None,
    ) -> str:
        """Create a run and log its parameters; the id is for every later call."""
        all_tags = dict(tags) | ({PARENT_TAG: parent_run_id} if parent_run_id else {})
        run = self._client.create_run(self._experiment_id(experiment), tags=all_tags, run_name=name)
        run_id = str(run.info.run_id)
        self._log_params(run_id, params)
        return run_id

    def log_metrics_batch(self, run_id: str, measurements: Iterable[Measurement]) -> None:
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        metrics = [Metric(one.name, one.value, now_ms, one.step) for one in measurements]
        for start in range(0, len(metrics), BATCH_METRICS):
            self._client.log_batch(run_id, metrics=metrics[start : start + BATCH_METRICS])

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self._client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def finish_run(self, run_id: str, status: RunStatus = "FINISHED") -> None:
        self._client.set_terminated(run_id, status)

    # -- model versions --------------------------------------------------------------------------------------------

    def register(
        self,
        name: str,
        bundle_dir: Path,
        run_id: str,
        lineage: Mapping[str, Any],
        metrics: Mapping[str, float] | None = None,
    ) -> ModelVersion:
        """Make the bundle a version of `name`, in MLflow and in the control store.

        The same bundle again gives the version it already is. A crash between the two leaves MLflow's version, which
        the next call takes up.
        """
        references.check_name(name)
        manifest, sha256 = read_manifest(bundle_dir), manifest_sha256(bundle_dir)
        known = self._registered(name, sha256)
        if known is not None:
            return known
        number = self._mlflow_version(name, sha256)
        if number is None:
            number = self._create_mlflow_version(name, bundle_dir, manifest, sha256, run_id, metrics or {})
        model = ModelVersion(
            name=name,
            version=number,
            run_id=run_id,
            bundle_uri=str(bundle_dir.absolute()),
            bundle_sha256=sha256,
            lineage=dict(lineage),
            created_at=utc_now(),
        )
        try:
            self._store.record_model_version(model)
        except ConflictError:
            # Another process registered the same bundle between our look and our write: its version is the one.
            winner = self._registered(name, sha256)
            if winner is None:
                raise
            return winner
        return model

    def set_alias(self, name: str, alias: str, version: int) -> None:
        """Point an alias at a version: in the store, then in MLflow for those who look there."""
        self._store.set_alias(name, alias, version)
        self.show_alias(name, alias, version)

    def show_alias(self, name: str, alias: str, version: int) -> None:
        """Point an alias at a version in MLflow alone, as the store has it already."""
        self._client.set_registered_model_alias(name, alias, str(version))

    def resolve(self, reference: str) -> ModelVersion:
        """The version that `name`, `name:3` or `name@champion` means, from the store alone."""
        return references.resolve(self._store, reference)

    # -- MLflow ----------------------------------------------------------------------------------------------------

    @cached_property
    def _client(self) -> "MlflowClient":
        return connect(self._paths.mlflow)

    def _experiment_id(self, name: str) -> str:
        if name not in self._experiments:
            found = self._client.get_experiment_by_name(name)
            location = Path(self._paths.artifacts).absolute() / "mlflow" / name
            self._experiments[name] = str(
                found.experiment_id if found else self._client.create_experiment(name, location.as_uri())
            )
        return self._experiments[name]

    def _log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        entries = [Param(name, str(value)[:PARAM_CHARACTERS]) for name, value in params.items()]
        for start in range(0, len(entries), BATCH_PARAMS):
            self._client.log_batch(run_id, params=entries[start : start + BATCH_PARAMS])

    def _registered(self, name: str, sha256: str) -> ModelVersion | None:
        return next((model for model in self._store.model_versions(name) if model.bundle_sha256 == sha256), None)

    def _mlflow_version(self, name: str, sha256: str) -> int | None:
        found = self._client.search_model_versions(f"name = '{name}'")
        numbers = [int(version.version) for version in found if version.tags.get(BUNDLE_TAG) == sha256]
        return min(numbers, default=None)

    def _create_mlflow_version(
        self,
        name: str,
        bundle_dir: Path,
        manifest: Manifest,
        sha256: str,
        run_id: str,
        metrics: Mapping[str, float],
    ) -> int:
        mlflow = import_mlflow()
        from mlflow.exceptions import MlflowException

        artifact = f"model-{sha256[:12]}"  # a run may have more than one
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary) / artifact
            # Requirements are stated, or MLflow would load the model in a new process to guess them.
            with warnings.catch_warnings():
                # It warns of its own type hints, and of a missing input example: that would be somebody's data.
                warnings.simplefilter("ignore")
                mlflow.pyfunc.save_model(
                    path=str(path),
                    loader_module=LOADER_MODULE,
                    data_path=str(bundle_dir),
                    signature=_signature(manifest),
                    pip_requirements=[_own_requirement()],
                    metadata={"bundle_sha256": sha256},
                )
            self._client.log_artifacts(run_id, str(path), artifact)
        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        source = f"{self._client.get_run(run_id).info.artifact_uri}/{artifact}"
        tags = {BUNDLE_TAG: sha256, "teal.family": manifest.name}
        tags |= {f"teal.{metric}": f"{value:.6g}" for metric, value in metrics.items()}
        created = self._client.create_model_version(name, source, run_id=run_id, tags=tags)
        return int(created.version)


def _signature(manifest: Manifest) -> "ModelSignature":
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

    inputs: list[ColSpec | TensorSpec] = []
    for name in (*manifest.encoding["numeric"], *manifest.encoding["categorical"]):
        column = manifest.contract[name]
        is_nullable = column["nullable"]
        # pandas turns integers with gaps into floats.
        number = "double" if column["type"] == "number" or is_nullable else "long"
        inputs.append(ColSpec("string" if column["type"] == "category" else number, name, required=not is_nullable))
    return ModelSignature(inputs=Schema(inputs), outputs=Schema([ColSpec("double", "score")]))


def _own_requirement() -> str:
    try:
        return f"teal-runtime=={version('teal-runtime')}"
    except PackageNotFoundError:
        return "teal-runtime"
