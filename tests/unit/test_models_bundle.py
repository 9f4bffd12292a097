import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from runtime.config.schema import ModelConfig
from runtime.core.errors import ConfigError, ContractError, NotFoundError, RefusedError
from runtime.data.profile import with_scores
from runtime.models import bundle as bundle_module
from runtime.models.bundle import load_bundle, manifest_sha256, read_manifest, save_bundle
from runtime.models.manifest import Manifest
from runtime.models.tabular import TabularModel, build_model
from tests import training_example as example

FILES = ("bundle.json", "model.safetensors", "profile.json")


def trained(config: ModelConfig, seed: int = 0) -> TabularModel:
    split = example.example_split()
    torch.manual_seed(seed)
    model = build_model(config, split.columns, split.encoding)
    model.fit_preprocessing(split.train)
    return model


def save(directory: Path, config: ModelConfig = example.MLP, seed: int = 0) -> Manifest:
    split = example.example_split()
    model = trained(config, seed)
    scores = model.predict(split.train.numeric, split.train.categorical)
    return save_bundle(
        directory,
        model=model,
        model_config=config,
        columns=split.columns,
        encoding=split.encoding,
        profile=with_scores(split.profile, scores),
        lineage={"code": "abc"},
    )


def test_round_trip_predicts_the_same_bit_by_bit(tmp_path: Path) -> None:
    manifest = save(tmp_path / "bundle")
    bundle = load_bundle(tmp_path / "bundle")
    split = example.example_split()
    expected = trained(example.MLP).predict(split.train.numeric, split.train.categorical)
    assert bundle.model.predict(split.train.numeric, split.train.categorical).tobytes() == expected.tobytes()
    assert not bundle.model.training
    assert bundle.manifest == manifest
    assert bundle.columns == split.columns
    assert list(bundle.columns) == list(split.columns)
    assert bundle.encoding == split.encoding
    assert bundle.profile == with_scores(split.profile, expected)


def test_it_is_safetensors_and_json_and_nothing_else(tmp_path: Path) -> None:
    save(tmp_path / "bundle")
    assert sorted(path.name for path in (tmp_path / "bundle").iterdir()) == sorted(FILES)
    for name in ("bundle.json", "profile.json"):
        json.loads((tmp_path / "bundle" / name).read_text())
    header = (tmp_path / "bundle" / "model.safetensors").read_bytes()[8:9]
    assert header == b"{"


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    save(tmp_path / "a")
    save(tmp_path / "b")
    assert [(tmp_path / "a" / name).read_bytes() for name in FILES] == [
        (tmp_path / "b" / name).read_bytes() for name in FILES
    ]


@pytest.mark.parametrize("name", ["model.safetensors", "profile.json"])
def test_a_changed_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    save(tmp_path / "bundle")
    path = tmp_path / "bundle" / name
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    with pytest.raises(RefusedError, match=rf"{name} of bundle .* was changed: sha256 is"):
        load_bundle(tmp_path / "bundle")


def test_a_changed_manifest_is_refused_where_the_registry_knows_it(tmp_path: Path) -> None:
    save(tmp_path / "bundle")
    registered = manifest_sha256(tmp_path / "bundle")
    path = tmp_path / "bundle" / "bundle.json"
    path.write_text(path.read_text().replace("abc", "abd"))
    with pytest.raises(RefusedError, match="is not the one that was registered"):
        load_bundle(tmp_path / "bundle", expected_sha256=registered)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    save(tmp_path / "bundle")
    (tmp_path / "bundle" / name).unlink()
    with pytest.raises(NotFoundError, match=name):
        load_bundle(tmp_path / "bundle")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("not json", "is not JSON"),
        ("[]", "must have format 1 but has 'list'"),
        ('{"format": 99}', "must have format 1 but has 99"),
        ('{"format": 1, "extra": 2}', "is not a manifest"),
    ],
)
def test_a_manifest_that_is_none_is_refused(tmp_path: Path, content: str, complaint: str) -> None:
    (tmp_path / "bundle.json").write_text(content)
    with pytest.raises(ContractError, match=complaint):
        read_manifest(tmp_path)


def test_a_manifest_cannot_name_other_files(tmp_path: Path) -> None:
    save(tmp_path / "bundle")
    path = tmp_path / "bundle" / "bundle.json"
    values = json.loads(path.read_text())
    values["files"] = {"../../etc/passwd": "0"}
    path.write_text(json.dumps(values))
    with pytest.raises(ContractError, match="must name the files"):
        load_bundle(tmp_path / "bundle")


def test_a_class_needs_the_readers_leave_or_the_registrys(tmp_path: Path) -> None:
    save(tmp_path / "bundle", example.own_net(width=3))
    with pytest.raises(ConfigError, match="outside the allowed modules"):
        load_bundle(tmp_path / "bundle")
    with pytest.raises(ConfigError, match="outside the allowed modules"):
        load_bundle(tmp_path / "bundle", allowed_modules=["runtime.models"])
    assert load_bundle(tmp_path / "bundle", allowed_modules=example.OWN_MODULES).manifest.arguments == {"width": 3}
    load_bundle(tmp_path / "bundle", expected_sha256=manifest_sha256(tmp_path / "bundle"))


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "bundle")
    path = tmp_path / "bundle" / "bundle.json"
    values = json.loads(path.read_text())
    values["arguments"]["hidden"] = [9]
    path.write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=r"the weights of bundle .* do not fit 'runtime.models.mlp:MLP'"):
        load_bundle(tmp_path / "bundle")


def test_tied_weights_are_kept(tmp_path: Path) -> None:
    config = ModelConfig(name="tied", class_path="tests.training_example:Tied", allowed_modules=example.OWN_MODULES)
    save(tmp_path / "bundle", config)
    split = example.example_split()
    loaded = load_bundle(tmp_path / "bundle", allowed_modules=example.OWN_MODULES)
    np.testing.assert_array_equal(
        loaded.model.predict(split.train.numeric, split.train.categorical),
        trained(config).predict(split.train.numeric, split.train.categorical),
    )


def test_another_bundle_is_never_overwritten_and_the_same_one_is_kept(tmp_path: Path) -> None:
    save(tmp_path / "bundle")
    before = manifest_sha256(tmp_path / "bundle")
    save(tmp_path / "bundle")
    with pytest.raises(RefusedError, match="never overwritten"):
        save(tmp_path / "bundle", seed=1)
    assert manifest_sha256(tmp_path / "bundle") == before
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_crash_while_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bundle_module, "_move", fail)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_lineage_that_is_no_json_writes_nothing(tmp_path: Path) -> None:
    split = example.example_split()
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_bundle(
            tmp_path / "bundle",
            model=trained(example.MLP),
            model_config=replace(example.MLP),
            columns=split.columns,
            encoding=split.encoding,
            profile=split.profile,
            lineage={"auc": float("nan")},
        )
    assert list(tmp_path.iterdir()) == []
