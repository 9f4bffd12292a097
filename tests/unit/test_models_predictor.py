"""A row's answer has the same bits in any company, compiled or not."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from runtime.models.linear import Linear
from runtime.models.mlp import MLP
from runtime.models.predictor import Predictor
from runtime.models.tabular import TabularModel

CARDINALITIES = (5, 40)
ROWS = 300


class Company(nn.Module):
    """Answers what it does only by the rows asked together."""

    def forward(self, numeric: Tensor, categorical: Tensor) -> Tensor:
        return (numeric - numeric.mean(dim=0)).sum(dim=1)


class SlowToTrace(MLP):
    """Inherits all but the promise that it can be traced."""


def build(net: nn.Module, num_numeric: int = 7) -> TabularModel:
    torch.manual_seed(0)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3)
    model = TabularModel(net, num_numeric=num_numeric, indicator_columns=[1, 4])
    model.center.copy_(torch.randn(num_numeric))
    model.scale.copy_(torch.rand(num_numeric) + 0.5)
    return model.eval()


def example(num_numeric: int = 7) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(1)
    numeric = random.normal(size=(ROWS, num_numeric)).astype(np.float32)
    numeric[::5, 4] = np.nan
    return numeric, np.stack([random.integers(0, size, ROWS) for size in CARDINALITIES], axis=1)


@pytest.mark.parametrize("hidden", [(64, 32), (17, 3), (8,), (33, 1)])
@pytest.mark.parametrize("is_compiled", [True, False])
def test_company_and_place_change_no_bit(hidden: Sequence[int], is_compiled: bool) -> None:
    model = build(MLP(9, CARDINALITIES, hidden=hidden))
    predictor = Predictor.for_serving(model, CARDINALITIES) if is_compiled else Predictor(model)
    assert predictor.is_traced == is_compiled
    check_company(predictor)


def test_company_and_place_change_no_bit_of_a_linear_model() -> None:
    check_company(Predictor.for_serving(build(Linear(9, CARDINALITIES)), CARDINALITIES))


def check_company(predictor: Predictor) -> None:
    numeric, categorical = example()
    alone = np.concatenate([predictor.predict(numeric[[i]], categorical[[i]]) for i in range(ROWS)])
    random = np.random.default_rng(2)
    for size in (2, 3, 7, 15, 16, 17, 31, 64, 129, 300):
        picked = random.integers(0, ROWS, size)
        assert np.array_equal(predictor.predict(numeric[picked], categorical[picked]), alone[picked])


def test_the_compiled_net_answers_the_models_own_bits() -> None:
    for net in (Linear(9, CARDINALITIES), MLP(9, CARDINALITIES)):
        model = build(net)
        compiled = Predictor.for_serving(model, CARDINALITIES)
        assert compiled.is_traced
        assert np.array_equal(compiled.predict(*example()), model.predict(*example()))


def test_preprocessing_is_the_models_own() -> None:
    model = build(Linear(9, CARDINALITIES))
    numeric, categorical = example()
    inputs, indices = Predictor(model)._pad(numeric, categorical)
    assert np.array_equal(inputs[:ROWS], model.standardise(torch.from_numpy(numeric)).numpy())
    assert np.array_equal(indices[:ROWS], categorical)
    assert len(inputs) % 32 == 0
    assert not inputs[ROWS:].any()


@pytest.mark.parametrize("num_rows", [1, 63, 64, ROWS])
def test_columns_laid_out_one_after_the_other_are_the_same_rows(num_rows: int) -> None:
    predictor = Predictor(build(MLP(9, CARDINALITIES)))
    numeric, categorical = (part[:num_rows] for part in example())
    by_row = predictor._pad(np.ascontiguousarray(numeric), categorical)
    by_column = predictor._pad(np.asfortranarray(numeric), np.asfortranarray(categorical))
    for part in (0, 1):
        assert by_column[part].flags.c_contiguous
        assert np.array_equal(by_row[part], by_column[part])


def test_only_a_class_that_says_so_itself_is_compiled() -> None:
    assert not Predictor.for_serving(build(SlowToTrace(9, CARDINALITIES)), CARDINALITIES).is_traced


def test_a_net_whose_rows_meddle_with_each_other_is_found_out(caplog: pytest.LogCaptureFixture) -> None:
    model = build(Company())
    assert not Predictor(model).settle(CARDINALITIES)
    Predictor.for_serving(model, CARDINALITIES)
    assert "depend on which rows are asked together" in caplog.text


def test_values_as_large_as_numbers_get_are_no_error() -> None:
    predictor = Predictor(build(Linear(9, CARDINALITIES)))
    numeric = np.full((1, 7), np.finfo(np.float32).max, dtype=np.float32)
    assert predictor.predict(numeric, np.zeros((1, 2), np.int64)).shape == (1,)
