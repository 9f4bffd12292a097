"""Real MLflow on a real SQLite file: runs, versions, aliases, and loading in a process that knows nothing of us."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from runtime.config.schema import ModelConfig, PathsConfig
from runtime.core.errors import NotFoundError, UsageError
from runtime.models.bundle import load_bundle, save_bundle
from runtime.models.tabular import build_model
from runtime.registry.mlflow_client import connect
from runtime.registry.mlflow_registry import Measurement, Registry
from runtime.store.control import ControlStore
from tests import training_example as example

ROWS = [
    {"speed": 120.0, "wind": 1.0, "hour": 3, "carrier": "B"},
    {"speed": 80.0, "wind": None, "hour": 23, "carrier": "new"},
]
LOADING = """
import json, sys
import mlflow, pandas
model = mlflow.pyfunc.load_model(sys.argv[1])
print(json.dumps(model.predict(pandas.DataFrame(json.loads(sys.argv[2]))).tolist()))
"""


def paths_at(home: Path) -> PathsConfig:
    return PathsConfig(
        home=str(home),
        control=f"sqlite:///{home}/control.db",
        mlflow=f"sqlite:///{home}/mlflow.db",
        warehouse=f"{home}/warehouse",
        artifacts=f"{home}/artifacts",
        payload=f"{home}/payload",
        run=f"{home}/run",
    )


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> PathsConfig:
    return paths_at(tmp_path_factory.mktemp("registry"))


@pytest.fixture(scope="module")
def registry(paths: PathsConfig) -> Iterator[Registry]:
    store = ControlStore(paths.control)
    store.create_schema()
    registry = Registry(paths, store)
    registry.create_database()
    yield registry
    store.close()


def save(directory: Path, *, seed: int, config: ModelConfig = example.MLP) -> Path:
    split = example.example_split()
    torch.manual_seed(seed)
    model = build_model(config, split.columns, split.encoding)
    model.fit_preprocessing(split.train)
    save_bundle(
        directory,
        model=model,
        model_config=config,
        columns=split.columns,
        encoding=split.encoding,
        profile=split.profile,
        lineage={"seed": seed},
    )
    return directory


def load_in_new_process(uri: str, paths: PathsConfig, **environment: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"MLFLOW_TRACKING_URI": paths.mlflow, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    command = [sys.executable, "-c", LOADING, uri, json.dumps(ROWS)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env | environment)


def test_a_run_holds_its_parameters_metrics_tags_and_parent(registry: Registry, paths: PathsConfig) -> None:
    parent = registry.start_run("sweep", "flights", {"teal.kind": "sweep"}, {})
    params = {f"p{index}": index for index in range(150)} | {"long": "x" * 7000}
    run_id = registry.start_run("trial", "flights", {"teal.kind": "trial"}, params, parent_run_id=parent)
    registry.log_metrics_batch(
        run_id, [Measurement(name="auc", value=0.1 * step, step=step) for step in range(1, 1203)]
    )
    registry.set_tags(run_id, {"teal.outcome": "candidate"})
    registry.finish_run(run_id)
    client = connect(paths.mlflow)
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["p149"] == "149"
    assert len(run.data.params["long"]) == 6000
    assert run.data.tags["mlflow.parentRunId"] == parent
    assert run.data.tags["teal.outcome"] == "candidate"
    assert [metric.step for metric in client.get_metric_history(run_id, "auc")] == list(range(1, 1203))
    assert run.info.artifact_uri.startswith(Path(paths.artifacts).as_uri())


def test_register_is_idempotent_and_loads_in_a_clean_process(
    registry: Registry, paths: PathsConfig, tmp_path: Path
) -> None:
    bundle_dir = save(tmp_path / "bundle", seed=1)
    run_id = registry.start_run("trial", "flights", {}, {})
    model = registry.register("flights", bundle_dir, run_id, {"code": "abc"}, {"auc": 0.7})
    assert model.label == "flights:1"
    assert registry.register("flights", bundle_dir, run_id, {"code": "abc"}, {"auc": 0.7}) == model
    second = registry.register("flights", save(tmp_path / "second", seed=2), run_id, {}, {})
    assert second.label == "flights:2"
    found = connect(paths.mlflow).search_model_versions("name = 'flights'")
    assert [int(version.version) for version in found] == [2, 1]

    registry.set_alias("flights", "champion", 1)
    assert registry.resolve("flights@champion") == model
    assert registry.resolve("flights") == second

    done = load_in_new_process("models:/flights@champion", paths)
    assert done.returncode == 0, done.stderr
    bundle = load_bundle(bundle_dir, expected_sha256=model.bundle_sha256)
    encoded = bundle.encoding.encode_rows(ROWS, bundle.columns)
    assert json.loads(done.stdout) == bundle.model.predict(encoded.numeric, encoded.categorical).tolist()
    assert not list(Path(paths.artifacts).rglob("*.pkl"))


def test_a_crash_between_the_two_databases_is_taken_up(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*arguments: object) -> None:
        raise KeyboardInterrupt

    bundle_dir = save(tmp_path / "bundle", seed=1)
    run_id = registry.start_run("trial", "flights", {}, {})
    with monkeypatch.context() as patch:
        patch.setattr(ControlStore, "record_model_version", crash)
        with pytest.raises(KeyboardInterrupt):
            registry.register("crashed", bundle_dir, run_id, {})
    with pytest.raises(NotFoundError):
        registry.resolve("crashed")
    assert registry.register("crashed", bundle_dir, run_id, {}).label == "crashed:1"


def test_a_users_class_loads_in_mlflow_only_where_it_is_allowed(
    registry: Registry, paths: PathsConfig, tmp_path: Path
) -> None:
    run_id = registry.start_run("trial", "own", {}, {})
    registry.register("own", save(tmp_path / "bundle", seed=1, config=example.own_net()), run_id, {})
    refused = load_in_new_process("models:/own/1", paths)
    assert refused.returncode != 0
    assert "outside the allowed modules" in refused.stderr
    done = load_in_new_process("models:/own/1", paths, TEAL_ALLOWED_MODULES="tests.training_example")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["flights:1", "a/b"])
def test_a_bad_name_or_bundle_registers_nothing(registry: Registry, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="model name"):
        registry.register(name, tmp_path, "run", {})
    with pytest.raises(NotFoundError, match="no bundle at"):
        registry.register("flights", tmp_path, "run", {})


def test_three_processes_may_open_a_new_database_at_once(tmp_path: Path) -> None:
    program = "import sys; from runtime.registry.mlflow_client import connect; connect(sys.argv[1])"
    uri = paths_at(tmp_path).mlflow
    processes = [
        subprocess.Popen([sys.executable, "-c", program, uri], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for _ in range(3)
    ]
    output = [process.communicate()[0].decode() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], output
    assert output == ["", "", ""], "MLflow and alembic keep quiet"
    assert connect(uri).search_experiments()[0].name == "Default"
