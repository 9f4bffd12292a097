import warnings
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch

from runtime.config.schema import ModelConfig, TrainingConfig
from runtime.core.errors import ConfigError, TealError
from runtime.models.tabular import TabularModel
from runtime.training.loop import choose_device, count_batches, train
from runtime.training.metrics import evaluate
from tests import training_example as example

TRAINING = TrainingConfig(epochs=4, batch_size=64, learning_rate=0.02, device="cpu")


def weights(model: TabularModel) -> bytes:
    return b"".join(value.numpy().tobytes() for value in model.state_dict().values())


@pytest.mark.parametrize("config", [example.MLP, example.LINEAR], ids=["mlp", "linear"])
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(config: ModelConfig) -> None:
    split = example.example_split()
    first = weights(train(config, TRAINING, split))
    torch.rand(3)
    assert weights(train(config, replace(TRAINING, num_threads=2), split)) == first
    assert weights(train(config, replace(TRAINING, seed=1), split)) != first


@pytest.mark.parametrize("config", [example.MLP, example.LINEAR], ids=["mlp", "linear"])
def test_it_learns(config: ModelConfig) -> None:
    split = example.example_split(2000)
    model = train(config, replace(TRAINING, epochs=8), split)
    scores = model.predict(split.validation.numeric, split.validation.categorical)
    assert evaluate(split.validation_labels, scores)["auc"] > 0.8


def test_the_best_epochs_weights_come_back_and_patience_ends_it() -> None:
    split = example.example_split(120)
    seen: list[float] = []

    def on_epoch(epoch: int, metrics: Mapping[str, float]) -> None:
        assert epoch == len(seen) + 1
        seen.append(metrics["log_loss"])

    overfits = replace(TRAINING, epochs=200, learning_rate=0.1, batch_size=8, patience=5)
    model = train(replace(example.MLP, arguments={"hidden": [32]}), overfits, split, on_epoch)
    assert len(seen) < 200
    best = seen.index(min(seen))
    assert len(seen) == best + 1 + overfits.patience
    scores = model.predict(split.validation.numeric, split.validation.categorical)
    assert evaluate(split.validation_labels, scores)["log_loss"] == min(seen)
    assert not model.training


def test_a_loss_that_is_not_finite_is_an_error_that_names_the_remedy() -> None:
    split = example.example_split()
    with pytest.raises(TealError, match=r"'own' diverged in epoch 1 .*lower training.learning_rate, which is 0.02"):
        train(example.own_net(behaviour="diverges"), TRAINING, split)


def test_a_users_net_trains() -> None:
    split = example.example_split(2000)
    model = train(example.own_net(), TRAINING, split)
    scores = model.predict(split.validation.numeric, split.validation.categorical)
    assert evaluate(split.validation_labels, scores)["auc"] > 0.75


@pytest.mark.parametrize("stopping", [SystemExit, KeyboardInterrupt, ValueError])
def test_the_process_is_left_as_it_was(stopping: type[BaseException]) -> None:
    split = example.example_split()
    threads, state = torch.get_num_threads(), torch.random.get_rng_state()

    def stop(epoch: int, metrics: Mapping[str, float]) -> None:
        raise stopping

    with pytest.raises(stopping):
        train(example.MLP, replace(TRAINING, num_threads=threads + 1), split, stop)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), state)


def test_one_last_row_is_no_batch_of_its_own() -> None:
    split = example.example_split(130)  # 65 rows to train on
    with_normalisation = ModelConfig(
        name="own",
        class_path="tests.training_example:Normalised",
        allowed_modules=example.OWN_MODULES,
    )
    model = train(with_normalisation, replace(TRAINING, batch_size=64, epochs=1), split)
    assert np.isfinite(model.predict(split.train.numeric, split.train.categorical)).all()


def test_shared_arrays_are_not_written_to() -> None:
    split = example.example_split()
    for array in (split.train.numeric, split.train.categorical, split.train_labels):
        array.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(example.MLP, replace(TRAINING, epochs=1), split)


def test_a_gpu_that_is_not_there_is_a_config_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="torch sees no GPU here"):
        choose_device("cuda")
    assert choose_device("auto").type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto").type == "cuda"
    assert choose_device("cpu").type == "cpu"


@pytest.mark.parametrize(("num_rows", "num_batches"), [(105_000, 103), (3200, 30), (320, 10), (20, 1)])
def test_a_small_table_gets_enough_steps(num_rows: int, num_batches: int) -> None:
    assert count_batches(num_rows, 1024) == num_batches
