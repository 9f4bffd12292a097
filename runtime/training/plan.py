"""The trials of a sweep, each with its run in MLflow and with all that it takes to repeat it."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from runtime.config.schema import Config, ModelConfig
from runtime.core.git import CodeVersion
from runtime.core.hashing import sha256_json
from runtime.registry.mlflow_registry import Registry
from runtime.store.records import DataVersion
from runtime.training.space import Choice, draw_choices
from runtime.training.trial import TrialPlan


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
        training=choice.training,
        bundle_dir=str(Path(config.paths.artifacts).absolute() / "bundles" / run_id),
        lineage={
            "data": data,
            "config": settings,
            "config_sha256": config_sha256,
            "code": asdict(code),
            "sweep_run_id": parent_run_id,
        },
    )


def lineage_tags(version: DataVersion, code: CodeVersion) -> dict[str, str]:
    return {
        "teal.data_version": version.label,
        "teal.data_fingerprint": version.fingerprint,
        "mlflow.source.git.commit": code.commit,
        "teal.code_diff_sha256": code.diff_sha256,
    }
