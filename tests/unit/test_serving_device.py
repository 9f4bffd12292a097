"""Where a replica's model computes. CUDA is a stand-in; on a machine with a GPU the last test uses it."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from runtime.core.errors import ConfigError
from runtime.serving.device import place_model
from runtime.serving.replica_doctor import examine_gpus, examine_reader


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.moved: list[Any] = []

    def to(self, *args: Any, **_: Any) -> "Model":
        self.moved.append(args[0])
        return self


@pytest.fixture
def fractions(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found: list[float] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", found.append)
    return found


def test_without_a_gpu_asked_for_the_model_stays(fractions: list[float]) -> None:
    model = Model()
    place_model(model, 0.0)
    assert (model.moved, fractions) == ([], [])


@pytest.mark.parametrize(("gpus", "limits"), [(0.25, [0.25]), (1.0, []), (2.0, [])])
def test_a_part_of_a_gpu_is_a_part_of_its_memory(fractions: list[float], gpus: float, limits: list[float]) -> None:
    model = Model()
    place_model(model, gpus)
    assert (model.moved, fractions) == (["cuda"], limits)


def test_a_gpu_that_torch_does_not_see_is_an_error_that_names_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"serving.gpus_per_replica is 0.5 but torch .* sees no GPU"):
        place_model(Model(), 0.5)
    (finding,) = examine_gpus(0.5)
    assert (finding.status, "each replica takes 0.5" in finding.detail) == ("warning", True)
    assert examine_gpus(0.0) == []


def test_the_doctor_counts_gpus(fractions: list[float]) -> None:
    (finding,) = examine_gpus(0.5)
    assert (finding.status, "sees 2 GPUs" in finding.detail) == ("ok", True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
def test_a_model_on_a_real_gpu_answers_as_on_the_cpu() -> None:
    model = nn.Linear(4, 1)
    rows = torch.from_numpy(np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32))
    expected = model(rows).detach().numpy()
    place_model(model, 0.1)
    assert next(model.parameters()).is_cuda
    assert np.allclose(model(rows.cuda()).detach().cpu().numpy(), expected, atol=1e-5)


def test_the_doctor_says_whether_the_reader_of_json_rows_was_built() -> None:
    assert examine_reader(is_compiled=True).status == "ok"
    found = examine_reader(is_compiled=False)
    assert (found.status, found.remedy is not None) == ("warning", True)
