"""A sweep on the real cluster, logged to real MLflow."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import ray
from deltalake import write_deltalake
from mlflow.entities import Run

from runtime.config.schema import Config, DataConfig, ModelConfig, SearchDimension, TrainingConfig, TuneConfig
from runtime.core.errors import TealError, UnreachableError
from runtime.core.git import CodeVersion
from runtime.models.bundle import load_bundle
from runtime.registry.mlflow_client import connect
from runtime.registry.mlflow_registry import Registry
from runtime.store.control import ControlStore
from runtime.store.records import DataVersion
from runtime.training.dataset import load_split
from runtime.training.loop import train
from runtime.training.metrics import evaluate
from runtime.training.sweep import SweepResult, sweep
from tests import training_example as example

CODE = CodeVersion(commit="c0ffee", diff_sha256="")
SPACE = {"training.learning_rate": SearchDimension(kind="loguniform", low=1e-4, high=1e-1)}
FAMILIES = {"mlp": replace(example.MLP, space=SPACE), "linear": replace(example.LINEAR, space=SPACE)}
DATA = DataConfig(name="example", builder="runtime.data.tabular:build", sources={}, columns=example.COLUMNS)


@pytest.fixture(scope="module")
def config(cluster: Config, tmp_path_factory: pytest.TempPathFactory) -> Config:
    home = tmp_path_factory.mktemp("sweep")
    paths = replace(
        cluster.paths,
        home=str(home),
        control=f"sqlite:///{home}/control.db",
        mlflow=f"sqlite:///{home}/mlflow.db",
        artifacts=f"{home}/artifacts",
    )
    return replace(
        cluster,
        paths=paths,
        data=DATA,
        training=TrainingConfig(epochs=6, batch_size=64, learning_rate=0.02),
        tune=TuneConfig(families=["mlp", "linear"], num_samples=3, grace_epochs=1, cpus_per_trial=0.5),
    )


@pytest.fixture(scope="module")
def version(config: Config) -> DataVersion:
    uri = f"{config.paths.home}/example"
    write_deltalake(uri, example.example_table(1200))
    return DataVersion(table="example", version=0, uri=uri, num_rows=1200, fingerprint="f1", lineage={}, created_at="")


@pytest.fixture(scope="module")
def registry(config: Config) -> Iterator[Registry]:
    store = ControlStore(config.paths.control)
    store.create_schema()
    yield Registry(config.paths, store)
    store.close()


@pytest.fixture(scope="module")
def progress() -> list[tuple[str, int, int]]:
    return []


@pytest.fixture(scope="module")
def result(
    config: Config, version: DataVersion, registry: Registry, progress: list[tuple[str, int, int]]
) -> SweepResult:
    return sweep(
        config, FAMILIES, version, registry=registry, code=CODE, on_progress=lambda *step: progress.append(step)
    )


def newest_sweep(config: Config) -> Run:
    client = connect(config.paths.mlflow)
    experiment = client.get_experiment_by_name("example")
    assert experiment is not None
    return client.search_runs([experiment.experiment_id], "tags.`teal.kind` = 'sweep'", max_results=1)[0]


def test_every_family_has_a_candidate_and_the_best_is_first(result: SweepResult) -> None:
    assert result.num_trials == 6
    assert len(result.candidates) + result.num_stopped == 6
    assert not result.failures
    assert {candidate.family for candidate in result.candidates} == {"mlp", "linear"}
    losses = [candidate.metrics["log_loss"] for candidate in result.candidates]
    assert losses == sorted(losses)
    assert result.best.metrics["auc"] > 0.75


def test_every_trial_is_a_child_run_with_its_parameters_epochs_and_lineage(result: SweepResult, config: Config) -> None:
    client = connect(config.paths.mlflow)
    parent = client.get_run(result.run_id)
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["teal.best_run_id"] == result.best.run_id
    children = client.search_runs(
        [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{result.run_id}'", max_results=100
    )
    assert len(children) == 6
    assert {child.info.status for child in children} == {"FINISHED"}
    outcomes = [child.data.tags["teal.outcome"] for child in children]
    assert outcomes.count("candidate") == len(result.candidates)
    assert outcomes.count("stopped") == result.num_stopped
    best = client.get_run(result.best.run_id)
    assert best.data.tags["teal.data_version"] == "example@0"
    assert best.data.tags["mlflow.source.git.commit"] == "c0ffee"
    assert best.data.tags["teal.config_sha256"] == result.best.lineage["config_sha256"]
    assert best.data.params["training.learning_rate"] == str(result.best.training["learning_rate"])
    steps = [metric.step for metric in client.get_metric_history(result.best.run_id, "auc")]
    assert steps == list(range(1, len(steps) + 1))
    assert best.data.metrics["best_log_loss"] == pytest.approx(result.best.metrics["log_loss"])


def test_the_bundle_is_what_was_measured_and_can_be_trained_again(
    result: SweepResult, config: Config, version: DataVersion
) -> None:
    best = result.best
    bundle = load_bundle(Path(best.bundle_dir), expected_sha256=best.bundle_sha256)
    split = load_split(version, config.data, config.training)
    scores = bundle.model.predict(split.validation.numeric, split.validation.categorical)
    assert evaluate(split.validation_labels, scores) == best.metrics
    assert bundle.profile.counts.rows == len(split.train)
    assert bundle.manifest.lineage["run_id"] == best.run_id
    assert bundle.manifest.lineage["data"]["fingerprint"] == "f1"
    settings = bundle.manifest.lineage["config"]
    again = train(ModelConfig(**settings["model"]), TrainingConfig(**settings["training"]), split)
    for name, value in again.state_dict().items():
        assert value.numpy().tobytes() == bundle.model.state_dict()[name].numpy().tobytes(), name


def test_progress_counts_up_to_all_trials(result: SweepResult, progress: list[tuple[str, int, int]]) -> None:
    assert progress[0] == ("reading the data", 0, 6)
    assert [done for _, done, _ in progress[1:]] == list(range(7))
    assert "best log loss" in progress[-1][0]


def test_tune_leaves_nothing_behind(result: SweepResult, config: Config) -> None:
    assert list((Path(config.paths.home) / "tune").iterdir()) == []


@pytest.mark.parametrize(
    ("behaviour", "complaint"), [("raises in training", "RuntimeError: out of memory"), ("dies in training", "died")]
)
def test_a_family_that_fails_leaves_the_other_running(
    config: Config, version: DataVersion, registry: Registry, behaviour: str, complaint: str
) -> None:
    families = {"own": example.own_net(behaviour=behaviour), "linear": example.LINEAR}
    result = sweep(
        replace(config, tune=replace(config.tune, num_samples=1)), families, version, registry=registry, code=CODE
    )
    assert [candidate.family for candidate in result.candidates] == ["linear"]
    (run_id, error), *others = result.failures.items()
    assert not others
    assert complaint in error
    assert connect(config.paths.mlflow).get_run(run_id).info.status == "FAILED"


def test_if_all_fail_the_first_error_is_named(config: Config, version: DataVersion, registry: Registry) -> None:
    families = {"own": example.own_net(depth=3)}
    with pytest.raises(TealError, match=r"none of 1 trials gave a candidate; run \w+: .*OwnNet.*'depth'"):
        sweep(config, families, version, registry=registry, code=CODE)
    assert newest_sweep(config).info.status == "FAILED"


def test_an_interrupted_sweep_ends_its_runs_and_starts_anew(
    config: Config, version: DataVersion, registry: Registry
) -> None:
    def interrupt(text: str, done: int, total: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(config, FAMILIES, version, registry=registry, code=CODE, on_progress=interrupt)
    interrupted = newest_sweep(config)
    assert interrupted.info.status == "KILLED"
    client = connect(config.paths.mlflow)
    assert not client.search_runs([interrupted.info.experiment_id], "attributes.status = 'RUNNING'")
    again = sweep(config, {"linear": example.LINEAR}, version, registry=registry, code=CODE)
    assert again.best.family == "linear"


def test_without_a_cluster_it_says_what_to_do(
    config: Config, version: DataVersion, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(UnreachableError, match="run `teal up` first"):
        sweep(config, FAMILIES, version, registry=registry, code=CODE)
