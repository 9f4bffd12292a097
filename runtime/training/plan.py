"""The trials of a sweep, each with its run in MLflow and with all that it takes to repeat it."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from runtime.config.schema import Config, ModelConfig, TrainingConfig, TuneConfig
from runtime.core.errors import ConfigError
from runtime.core.git import CodeVersion
from runtime.core.hashing import sha256_json
from runtime.registry.mlflow_registry import Registry
from runtime.store.records import DataVersion
from runtime.training.space import Choice, draw_choices
from runtime.training.trial import TrialPlan

Device = Literal["cpu", "cuda"]


def start_parent(
    config: Config, families: Mapping[str, ModelConfig], version: DataVersion, code: CodeVersion, registry: Registry
) -> str:
    """The run that the trials' runs hang under; in the experiment named after the table."""
    tags = lineage_tags(version, code) | {"teal.kind": "sweep"}
    params = {"families": ",".join(families), **{f"tune.{name}": value for name, value in asdict(config.tune).items()}}
    return registry.start_run(f"sweep {version.label}", version.table, tags, params)


def draw_trials(config: Config, families: Mapping[str, ModelConfig]) -> list[tuple[str, Choice]]:
    """Families in turn, so that each is heard from early. ConfigError names a bad space."""
    drawn = {
        family: draw_choices(model, config.training, num_samples=config.tune.num_samples, seed=config.tune.seed)
        for family, model in families.items()
    }
    return [
        (family, choices[sample])
        for sample in range(config.tune.num_samples)
        for family, choices in drawn.items()
        if sample < len(choices)
    ]


def start_trial(
    config: Config,
    family: str,
    choice: Choice,
    version: DataVersion,
    code: CodeVersion,
    registry: Registry,
    *,
    parent_run_id: str,
) -> TrialPlan:
    """Create the trial's run with its parameters and lineage."""
    settings = {"data": asdict(config.data), "model": asdict(choice.model), "training": asdict(choice.training)}
    config_sha256 = sha256_json(settings)
    tags = {"teal.kind": "trial", "teal.family": family, "teal.config_sha256": config_sha256}
    params: dict[str, Any] = {"family": family, "class_path": choice.model.class_path}
    params |= {f"arguments.{name}": value for name, value in choice.model.arguments.items()}
    params |= {f"training.{name}": value for name, value in asdict(choice.training).items()}
    run_id = registry.start_run(
        family, version.table, lineage_tags(version, code) | tags, params, parent_run_id=parent_run_id
    )
    data = {"table": version.table, "version": version.version, "uri": version.uri, "fingerprint": version.fingerprint}
    return TrialPlan(
        run_id=run_id,
        family=family,
        model=choice.model,
        training=replace(choice.training, device=trial_device(config.tune, choice.training)),
        bundle_dir=str(Path(config.paths.artifacts).absolute() / "bundles" / run_id),
        lineage={
            "data": data,
            "config": settings,
            "config_sha256": config_sha256,
            "code": asdict(code),
            "sweep_run_id": parent_run_id,
        },
    )


def trial_device(tune: TuneConfig, training: TrainingConfig) -> Device:
    """What a trial may use: a GPU only where one is reserved for it, as others would be trained on the same otherwise.

    ConfigError where the two settings contradict each other.
    """
    if tune.gpus_per_trial > 0:
        if training.device == "cpu":
            raise ConfigError(
                f"tune.gpus_per_trial {tune.gpus_per_trial:g} reserves GPUs that training.device 'cpu' would not use; "
                "set one of them otherwise"
            )
        return "cuda"
    if training.device == "cuda":
        raise ConfigError("training.device 'cuda' needs a GPU a trial, but tune.gpus_per_trial is 0; set it to 1")
    return "cpu"


def check_gpus(tune: TuneConfig, resources: Mapping[str, float]) -> None:
    """ConfigError where no trial could ever start: Tune would wait for ever, and say nothing."""
    found = resources.get("GPU", 0.0)
    if tune.gpus_per_trial > found:
        raise ConfigError(
            f"tune.gpus_per_trial is {tune.gpus_per_trial:g} but the running nodes of the cluster have {found:g} GPUs; "
            "set it to 0, or start a node that has one"
        )


def lineage_tags(version: DataVersion, code: CodeVersion) -> dict[str, str]:
    return {
        "teal.data_version": version.label,
        "teal.data_fingerprint": version.fingerprint,
        "mlflow.source.git.commit": code.commit,
        "teal.code_diff_sha256": code.diff_sha256,
    }
