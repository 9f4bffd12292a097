"""The training loop. It knows one split and one configuration: nothing of Ray, MLflow or files."""

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from runtime.config.schema import ModelConfig, TrainingConfig
from runtime.core.errors import ConfigError, TealError
from runtime.data.encoding import Encoded
from runtime.models.tabular import TabularModel, build_model
from runtime.training.dataset import Split
from runtime.training.metrics import evaluate

OnEpoch = Callable[[int, Mapping[str, float]], None]
"""Called after each epoch with its number, from 1, and its metrics."""

MIN_STEPS_PER_EPOCH = 30
MIN_BATCH_ROWS = 32


def train(
    model_config: ModelConfig, training_config: TrainingConfig, split: Split, on_epoch: OnEpoch | None = None
) -> TabularModel:
    """Fit AdamW on binary cross entropy; the weights of the epoch with the best validation log loss are returned.

    On the CPU the same inputs and seed give the same weights, bit by bit. The caller's random state is left as it was.
    Raises ConfigError for a net that cannot be built, TealError for a loss that is no longer finite.
    """
    device = choose_device(training_config.device)
    with _threads(training_config.num_threads), torch.random.fork_rng():
        torch.manual_seed(training_config.seed)
        model = build_model(model_config, split.columns, split.encoding)
        model.fit_preprocessing(split.train)
        model.to(device)
        best_log_loss, best_weights, epochs_since = math.inf, None, 0
        for epoch, train_loss in enumerate(_epochs(model, training_config, split, device), start=1):
            scores = model.predict(split.validation.numeric, split.validation.categorical)
            if not (math.isfinite(train_loss) and np.isfinite(scores).all()):
                raise TealError(
                    f"training {model_config.name!r} diverged in epoch {epoch} with training loss {train_loss}; "
                    f"lower training.learning_rate, which is {training_config.learning_rate:g}"
                )
            metrics = evaluate(split.validation_labels, scores) | {"train_loss": train_loss}
            epochs_since += 1
            if metrics["log_loss"] < best_log_loss:
                best_log_loss, best_weights, epochs_since = metrics["log_loss"], copy.deepcopy(model.state_dict()), 0
            if on_epoch is not None:
                on_epoch(epoch, metrics)
            if epochs_since >= training_config.patience:
                break
    if best_weights is not None:
        model.load_state_dict(best_weights)
    return model.cpu().eval()


def choose_device(wanted: str) -> torch.device:
    """`cpu`, `cuda`, or with `auto` a GPU where there is one. ConfigError for a GPU that is not there."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError("training.device is 'cuda' but torch sees no GPU here; set it to 'auto' or 'cpu'")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def count_batches(num_rows: int, batch_size: int) -> int:
    """Steps of an epoch: more than `batch_size` asks for where a small table would give too few to learn from."""
    return max(math.ceil(num_rows / batch_size), min(MIN_STEPS_PER_EPOCH, num_rows // MIN_BATCH_ROWS))


def _epochs(model: TabularModel, config: TrainingConfig, split: Split, device: torch.device) -> Iterator[float]:
    """Run one epoch at each step; yields its mean training loss. The model is left in evaluation mode."""
    numeric, categorical = _inputs(model, split.train, device)
    labels = torch.tensor(split.train_labels, device=device)
    num_batches = count_batches(len(labels), config.batch_size)
    optimizer = torch.optim.AdamW(
        model.net.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=config.epochs * num_batches)
    loss_function = nn.BCEWithLogitsLoss()
    for _ in range(config.epochs):
        model.train()
        # Rows are moved once an epoch, so that every batch is a slice: gathering each batch is a fifth slower.
        order = torch.randperm(len(labels)).to(device)
        parts = zip(
            *(values[order].tensor_split(num_batches) for values in (numeric, categorical, labels)), strict=True
        )
        total = torch.zeros((), device=device)
        for batch_numeric, batch_categorical, batch_labels in parts:
            optimizer.zero_grad()
            loss = loss_function(model.net(batch_numeric, batch_categorical), batch_labels)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.detach() * len(batch_labels)
        model.eval()
        yield total.item() / len(labels)


def _inputs(model: TabularModel, encoded: Encoded, device: torch.device) -> tuple[Tensor, Tensor]:
    """What the net takes, standardised once for all epochs."""
    with torch.no_grad():
        numeric = model.standardise(torch.tensor(encoded.numeric, device=device))
    return numeric, torch.tensor(encoded.categorical, device=device)


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
