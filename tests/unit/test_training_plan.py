"""What a trial is trained on, decided before anything starts."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from runtime.config.schema import TrainingConfig, TuneConfig
from runtime.core.errors import ConfigError
from runtime.models.tabular import build_model
from runtime.training.loop import _inputs
from runtime.training.plan import check_gpus, trial_device
from tests import training_example as example


@pytest.mark.parametrize(
    ("device", "gpus", "expected"),
    [("auto", 0.0, "cpu"), ("cpu", 0.0, "cpu"), ("auto", 1.0, "cuda"), ("cuda", 0.5, "cuda")],
)
def test_a_trial_uses_the_gpu_that_is_reserved_for_it_and_no_other(device: Any, gpus: float, expected: str) -> None:
    assert trial_device(TuneConfig(families=["mlp"], gpus_per_trial=gpus), TrainingConfig(device=device)) == expected


@pytest.mark.parametrize(
    ("device", "gpus", "words"),
    [
        ("cuda", 0.0, "but tune.gpus_per_trial is 0; set it to 1"),
        ("cpu", 1.0, "reserves GPUs that training.device 'cpu'"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(device: Any, gpus: float, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        trial_device(TuneConfig(families=["mlp"], gpus_per_trial=gpus), TrainingConfig(device=device))


def test_a_sweep_that_could_never_start_is_refused() -> None:
    tune = TuneConfig(families=["mlp"], gpus_per_trial=1.0)
    check_gpus(tune, {"CPU": 8.0, "GPU": 1.0})
    check_gpus(replace(tune, gpus_per_trial=0.0), {"CPU": 8.0})
    with pytest.raises(ConfigError, match="gpus_per_trial is 1 but the running nodes of the cluster have 0 GPUs"):
        check_gpus(tune, {"CPU": 8.0})


@pytest.mark.parametrize("config", [example.MLP, example.LINEAR], ids=["mlp", "linear"])
def test_all_that_a_step_computes_with_is_on_the_device_of_the_model(config: Any) -> None:
    """The meta device knows shapes alone, and refuses a tensor of any other device."""
    split = example.example_split()
    device = torch.device("meta")
    model = build_model(config, split.columns, split.encoding)
    model.fit_preprocessing(split.train)
    model.to(device)
    numeric, categorical = _inputs(model, split.train, device)
    labels = torch.tensor(split.train_labels, device=device)
    loss = torch.nn.BCEWithLogitsLoss()(model.net.train()(numeric, categorical), labels)
    loss.backward()
    assert {numeric.device.type, categorical.device.type, loss.device.type} == {"meta"}
    assert all(one.grad is not None and one.grad.device.type == "meta" for one in model.net.parameters())
