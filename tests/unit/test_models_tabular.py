from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler

from runtime.config.schema import ModelConfig
from runtime.core.errors import ConfigError
from runtime.data.encoding import Encoded, Encoding
from runtime.models import predictor
from runtime.models.linear import Linear
from runtime.models.mlp import MLP
from runtime.models.tabular import TabularModel, build_model
from tests import training_example as example


class Echo(torch.nn.Module):
    def forward(self, numeric: torch.Tensor, categorical: torch.Tensor) -> torch.Tensor:
        return numeric.sum(dim=1)


def encode(numeric: np.ndarray) -> Encoded:
    return Encoded(numeric=numeric.astype(np.float32), categorical=np.zeros((len(numeric), 0), np.int64))


def test_standardises_as_scikit_learn_does_and_marks_the_missing() -> None:
    random = np.random.default_rng(1)
    numeric = random.normal([5, -300], [2, 40], (200, 2)).astype(np.float32)
    numeric[::7, 1] = np.nan
    model = TabularModel(Echo(), num_numeric=2, indicator_columns=[1])
    model.fit_preprocessing(encode(numeric))
    expected = np.nan_to_num(StandardScaler().fit_transform(numeric), nan=0.0)
    result = model.standardise(torch.from_numpy(numeric)).numpy()
    np.testing.assert_allclose(result[:, :2], expected, atol=1e-5)
    assert result[:, 2].tolist() == np.isnan(numeric[:, 1]).astype(float).tolist()


def test_constant_and_wholly_missing_columns_become_zero() -> None:
    numeric = np.array([[1013.25, np.nan]] * 5, np.float32)
    model = TabularModel(Echo(), num_numeric=2, indicator_columns=[])
    model.fit_preprocessing(encode(numeric))
    result = model.standardise(torch.from_numpy(numeric)).numpy()
    np.testing.assert_allclose(result, 0.0, atol=1e-3)


def test_predict_is_the_same_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    split = example.example_split()
    model = build_model(example.MLP, split.columns, split.encoding)
    model.fit_preprocessing(split.train)
    whole = model.predict(split.train.numeric, split.train.categorical)
    monkeypatch.setattr(predictor, "PREDICT_ROWS", 7)
    parts = model.predict(split.train.numeric, split.train.categorical)
    assert whole.dtype == np.float64
    assert whole.shape == (len(split.train),)
    assert np.array_equal(parts, whole)
    assert ((whole > 0) & (whole < 1)).all()


def test_predict_takes_read_only_and_empty_arrays() -> None:
    split = example.example_split()
    model = build_model(example.LINEAR, split.columns, split.encoding)
    numeric = split.train.numeric[:0].copy()
    numeric.flags.writeable = False
    assert model.predict(numeric, split.train.categorical[:0]).shape == (0,)


def test_a_nullable_column_gives_the_net_one_more_input() -> None:
    split = example.example_split()
    model = build_model(example.LINEAR, split.columns, split.encoding)
    assert isinstance(model.net, Linear)
    assert split.encoding.numeric == ("speed", "wind", "hour")
    assert len(model.net.numeric_weight) == 4


@pytest.mark.parametrize(
    ("behaviour", "complaint"),
    [
        ("two dimensions", r"shape \[n\], here \[3\], but answers torch.float32 of shape \[3, 1\]"),
        ("integers", "but answers torch.int64"),
        ("no tensor", "must answer a tensor but answers list"),
        ("raises", "RuntimeError: no such layer"),
    ],
)
def test_a_net_that_answers_wrongly_is_named(behaviour: str, complaint: str) -> None:
    split = example.example_split()
    with pytest.raises(ConfigError, match=rf"tests\.training_example:OwnNet.*{complaint}"):
        build_model(example.own_net(behaviour=behaviour), split.columns, split.encoding)


def test_wrong_constructor_arguments_name_the_class_and_the_argument() -> None:
    split = example.example_split()
    with pytest.raises(ConfigError, match=r"OwnNet.*unexpected keyword argument 'depth'"):
        build_model(example.own_net(depth=3), split.columns, split.encoding)


@pytest.mark.parametrize(
    ("class_path", "complaint"),
    [
        ("tests.training_example:NotANet", "must be a torch.nn.Module"),
        ("tests.training_example:example_split", "must be a torch.nn.Module"),
        ("tests.training_example:Missing", "has no 'Missing'"),
        ("os:system", "outside the allowed modules"),
        ("tests.training_example", "must look like"),
    ],
)
def test_only_an_allowed_module_class_is_built(class_path: str, complaint: str) -> None:
    split = example.example_split()
    config = ModelConfig(name="own", class_path=class_path, allowed_modules=example.OWN_MODULES)
    with pytest.raises(ConfigError, match=complaint):
        build_model(config, split.columns, split.encoding)


@pytest.mark.parametrize(("num_numeric", "cardinalities"), [(3, []), (0, [5]), (2, [3, 200])])
def test_nets_work_without_numbers_or_without_categories(num_numeric: int, cardinalities: list[int]) -> None:
    categorical = torch.tensor([[size - 1 for size in cardinalities]] * 4, dtype=torch.int64)
    for net in (MLP(num_numeric, cardinalities), Linear(num_numeric, cardinalities)):
        assert net(torch.ones(4, num_numeric), categorical).shape == (4,)


def test_a_contract_without_features_is_refused() -> None:
    with pytest.raises(ConfigError, match="no column has role feature"):
        build_model(example.MLP, {}, Encoding(numeric=(), categorical=(), vocabularies={}))


def test_linear_is_the_sum_of_its_weights() -> None:
    net = Linear(2, [3])
    category_weights = net.category_weights[0]
    assert isinstance(category_weights, torch.nn.Embedding)
    with torch.no_grad():
        net.bias.fill_(0.5)
        net.numeric_weight.copy_(torch.tensor([2.0, -1.0]))
        category_weights.weight[2] = 10.0
    logits = net(torch.tensor([[1.0, 3.0], [0.0, 0.0]]), torch.tensor([[2], [0]]))
    assert logits.tolist() == [0.5 + 2 - 3 + 10, 0.5]


@pytest.mark.parametrize("arguments", [{"hidden": []}, {"hidden": [0]}, {"dropout": 1.0}, {"max_embedding": 0}])
def test_mlp_refuses_sizes_that_make_no_sense(arguments: dict[str, object]) -> None:
    split = example.example_split()
    name = next(iter(arguments))
    with pytest.raises(ConfigError, match=rf"MLP.*{name} must"):
        build_model(replace(example.MLP, arguments=arguments), split.columns, split.encoding)
