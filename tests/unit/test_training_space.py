from dataclasses import replace
from typing import Any

import pytest

from runtime.config.schema import SearchDimension, TrainingConfig
from runtime.core.errors import ConfigError
from runtime.training.space import apply_values, draw_choices
from tests import training_example as example

SPACE = {
    "arguments.hidden": SearchDimension(kind="choice", values=[[8], [16, 8]]),
    "arguments.dropout": SearchDimension(kind="uniform", low=0.0, high=0.5),
    "training.learning_rate": SearchDimension(kind="loguniform", low=1e-4, high=1e-1),
    "training.batch_size": SearchDimension(kind="integer", low=16, high=64),
}
MODEL = replace(example.MLP, space=SPACE)
TRAINING = TrainingConfig()


def test_the_first_choice_is_the_configuration_itself() -> None:
    first = draw_choices(MODEL, TRAINING, num_samples=1, seed=0)
    assert [(choice.model, choice.training) for choice in first] == [(MODEL, TRAINING)]


def test_choices_depend_on_the_seed_alone_and_a_longer_sweep_goes_on() -> None:
    five = draw_choices(MODEL, TRAINING, num_samples=5, seed=3)
    assert draw_choices(MODEL, TRAINING, num_samples=5, seed=3) == five
    assert draw_choices(MODEL, TRAINING, num_samples=8, seed=3)[:5] == five
    assert draw_choices(MODEL, TRAINING, num_samples=5, seed=4)[1:] != five[1:]


def test_values_lie_within_their_dimension() -> None:
    choices = draw_choices(MODEL, TRAINING, num_samples=60, seed=0)[1:]
    assert len(choices) == 59
    assert all(1e-4 <= choice.training.learning_rate <= 1e-1 for choice in choices)
    assert min(choice.training.learning_rate for choice in choices) < 1e-3, "a log-uniform draw reaches the small"
    sizes = [choice.training.batch_size for choice in choices]
    assert all(isinstance(size, int) and 16 <= size <= 64 for size in sizes)
    assert all(0 <= choice.model.arguments["dropout"] <= 0.5 for choice in choices)
    assert {str(choice.model.arguments["hidden"]) for choice in choices} == {"[8]", "[16, 8]"}


def test_a_small_space_is_tried_once() -> None:
    model = replace(example.MLP, space={"arguments.hidden": SPACE["arguments.hidden"]})
    assert len(draw_choices(model, TRAINING, num_samples=10, seed=0)) == 2
    assert len(draw_choices(replace(example.MLP, space={}), TRAINING, num_samples=10, seed=0)) == 1


@pytest.mark.parametrize("key", ["hidden", "training.train_since", "training.nonsense", "model.name", "arguments."])
def test_other_keys_are_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"'mlp': space key '{key}' must be arguments.NAME or one of"):
        apply_values(example.MLP, TRAINING, {key: 1})


@pytest.mark.parametrize(
    ("dimension", "complaint"),
    [
        (SearchDimension(kind="loguniform", low=0.0, high=1.0), "loguniform needs low above 0"),
        (SearchDimension(kind="uniform", low=-2.0, high=-1.0), "learning_rate must be above 0"),
    ],
)
def test_a_space_that_cannot_be_drawn_from_is_refused(dimension: SearchDimension, complaint: str) -> None:
    space: dict[str, Any] = {"training.learning_rate": dimension}
    with pytest.raises(ConfigError, match=complaint):
        draw_choices(replace(example.MLP, space=space), TRAINING, num_samples=3, seed=0)
