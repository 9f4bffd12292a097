"""Which configurations a sweep tries: the family's own first, then seeded random draws from its space."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pydantic import ValidationError

from runtime.config.schema import ModelConfig, SearchDimension, TrainingConfig
from runtime.core.errors import ConfigError
from runtime.core.hashing import canonical_json

TUNABLE_TRAINING = ("batch_size", "epochs", "learning_rate", "patience", "seed", "weight_decay")
"""Fields of the training configuration that a space may vary; the others would change what trials are judged on."""
MAX_REDRAWS = 50


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """One point of a family's space."""

    model: ModelConfig
    training: TrainingConfig


def draw_choices(model: ModelConfig, training: TrainingConfig, *, num_samples: int, seed: int) -> list[Choice]:
    """Up to `num_samples` different choices; fewer where the space holds no more. ConfigError names a bad dimension."""
    names = sorted(model.space)
    choices = [Choice(model=model, training=training)]
    seen = {_identity(choices[0])}
    for index in range(1, num_samples):
        for redraw in range(MAX_REDRAWS):
            random = np.random.default_rng([seed, index, redraw])
            choice = apply_values(model, training, {name: _draw(model.space[name], random) for name in names})
            if _identity(choice) not in seen:
                seen.add(_identity(choice))
                choices.append(choice)
                break
    return choices


def apply_values(model: ModelConfig, training: TrainingConfig, values: Mapping[str, Any]) -> Choice:
    """Both configurations with keys `arguments.NAME` and `training.NAME` set."""
    arguments, fields = dict(model.arguments), {}
    for key, value in values.items():
        group, _, name = key.partition(".")
        if group == "arguments" and name:
            arguments[name] = value
        elif group == "training" and name in TUNABLE_TRAINING:
            fields[name] = value
        else:
            allowed = ", ".join(f"training.{name}" for name in TUNABLE_TRAINING)
            raise ConfigError(f"model {model.name!r}: space key {key!r} must be arguments.NAME or one of {allowed}")
    try:
        return Choice(model=replace(model, arguments=arguments), training=replace(training, **fields))
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"model {model.name!r}: the space gives {dict(values)}: {first['msg']}") from error


def _draw(dimension: SearchDimension, random: np.random.Generator) -> Any:
    if dimension.values is not None and dimension.kind == "choice":
        return dimension.values[int(random.integers(len(dimension.values)))]
    if dimension.low is None or dimension.high is None:
        raise ConfigError(f"a space of kind {dimension.kind} needs low and high")
    if dimension.kind == "integer":
        return int(random.integers(int(dimension.low), int(dimension.high), endpoint=True))
    if dimension.kind == "uniform":
        return float(random.uniform(dimension.low, dimension.high))
    if dimension.low <= 0:
        raise ConfigError(f"a space of kind loguniform needs low above 0 but got {dimension.low:g}")
    return float(np.exp(random.uniform(np.log(dimension.low), np.log(dimension.high))))


def _identity(choice: Choice) -> str:
    varied = {name: getattr(choice.training, name) for name in TUNABLE_TRAINING}
    return canonical_json([choice.model.arguments, varied])
