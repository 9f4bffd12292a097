"""Composition: overrides, the user's own directory, and errors that name key, place and the nearest right key."""

import dataclasses
from pathlib import Path

import pytest

from runtime.config.compose import compose, compose_family, load_config, save_config
from runtime.core.errors import ConfigError


def test_values_are_overridden_and_the_result_is_frozen() -> None:
    config = compose(["tune.num_samples=7", "model=linear"])
    assert (config.tune.num_samples, config.model.name) == (7, "linear")
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.tune.num_samples = 8  # type: ignore[misc]


def test_a_key_that_its_file_leaves_out_can_be_set() -> None:
    assert compose(["gate.must_improve=auc"]).gate.must_improve == "auc"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tune.num_sample=3", r"unknown key 'tune.num_sample' on the command line; did you mean 'tune.num_samples'\?"),
        (
            "cluster.ports.egde=1",
            r"unknown key 'cluster.ports.egde' on the command line; did you mean 'cluster.ports.edge'",
        ),
        ("tune.num_samples=many", r"tune.num_samples on the command line: .*integer.*, but got 'many'"),
        ("rollout.steps_percent=[50,10]", r"steps_percent must rise strictly but got \[50, 10\]"),
        ("training.learning_rate=-1", r"learning_rate must be above 0 but got -1"),
        ("model=mpl", r"Could not find 'model/mpl'"),
        ("nonsense", r"override 'nonsense' must look like"),
        ("gate.margins.speed=1", r"gate.margins"),
    ],
)
def test_errors_name_the_key_the_place_and_the_remedy(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose([override])


def test_an_unknown_key_in_a_users_file_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tune").mkdir()
    (tmp_path / "tune" / "mine.yaml").write_text("families: [mlp]\nnum_trials: 3\n")
    monkeypatch.setenv("TEAL_CONFIGS", str(tmp_path))
    with pytest.raises(ConfigError, match=r"unknown key 'tune.num_trials' in tune/mine.yaml"):
        compose(["tune=mine"])


def test_a_users_directory_adds_choices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("name: mine\nclass_path: my.module:Net\nallowed_modules: [my]\n")
    monkeypatch.setenv("TEAL_CONFIGS", str(tmp_path))
    assert compose(["model=mine"]).model.class_path == "my.module:Net"
    assert compose_family("mine").allowed_modules == ["my"]
    assert compose([]).model.name == "mlp"


def test_a_users_directory_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEAL_CONFIGS", "/nowhere/at/all")
    with pytest.raises(ConfigError, match="TEAL_CONFIGS names '/nowhere/at/all'"):
        compose([])


def test_home_is_absolute_and_everything_lies_below_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEAL_HOME", str(tmp_path / "home"))
    paths = compose([]).paths
    assert paths.control == f"sqlite:///{tmp_path}/home/control.db"
    assert paths.run == f"{tmp_path}/home/run"


def test_what_is_saved_is_what_is_loaded_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    config = compose(["cluster.ports.edge=18080"])
    path = tmp_path / "run" / "config.json"
    save_config(config, path)
    assert load_config(path) == config
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_damaged_saved_configuration_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text("{")
    with pytest.raises(ConfigError, match="cannot read the configuration"):
        load_config(path)
