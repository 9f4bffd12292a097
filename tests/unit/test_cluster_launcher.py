"""cluster.yaml and our rules for it. Ray's own schema: tests/integration/test_cluster_launcher.py."""

import copy
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runtime.cluster.doctor import examine_nodes
from runtime.cluster.launcher import check_launcher_file, is_pinned, launcher_problems
from runtime.cluster.token import ray_environment
from runtime.config.compose import compose
from runtime.core.errors import ConfigError
from tests.cluster_config import cluster_config

FILE = Path(__file__).resolve().parents[2] / "cluster.yaml"
HEAD = "RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=/run/token ray start --head --dashboard-host=127.0.0.1"


@pytest.fixture
def content() -> dict[str, Any]:
    return copy.deepcopy(check_launcher_file(FILE))


def test_our_file_keeps_the_rules() -> None:
    assert check_launcher_file(FILE)["cluster_name"] == "teal"


@pytest.mark.parametrize("auth", [None, {}, [], "ubuntu"])
def test_missing_auth_is_named(content: dict[str, Any], auth: Any) -> None:
    content["auth"] = auth
    assert [problem for problem in launcher_problems(content) if "`auth` is missing" in problem]
    del content["auth"]
    assert [problem for problem in launcher_problems(content) if "`auth` is missing" in problem]


def test_auth_without_a_key_is_named(content: dict[str, Any]) -> None:
    del content["auth"]["ssh_private_key"]
    assert launcher_problems(content) == ["`auth.ssh_private_key` is missing"]


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("RAY_AUTH_MODE=token", "", "without RAY_AUTH_MODE=token"),
        ("RAY_AUTH_MODE=token", "RAY_AUTH_MODE=disabled", "without RAY_AUTH_MODE=token"),
        ("--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0", "opens the dashboard"),
        ("--dashboard-host=127.0.0.1", "--dashboard-host '::'", "opens the dashboard"),
        ("RAY_AUTH_TOKEN_PATH=", "RAY_AUTH_TOKEN=abc X=", "token in plain text"),
    ],
)
def test_head_that_is_open_is_named(content: dict[str, Any], old: str, new: str, problem: str) -> None:
    content["head_start_ray_commands"] = [HEAD.replace(old, new)]
    (found,) = launcher_problems(content)
    assert problem in found
    assert "head_start_ray_commands" in found


def test_a_worker_has_the_variables_that_the_head_gives_ray(content: dict[str, Any], tmp_path: Path) -> None:
    config = cluster_config(tmp_path)
    given = ray_environment(replace(config, cluster=replace(config.cluster, address="10.0.0.1")))
    line = next(line for line in content["worker_start_ray_commands"] if "ray start" in line)
    told = dict(word.split("=", 1) for word in shlex.split(line.partition("ray start")[0]))
    assert told["RAY_AUTH_TOKEN_PATH"] in content["file_mounts"]
    of_the_head_alone = {name for name, value in given.items() if value.startswith("/") or name.startswith("DASHBOARD")}
    assert given.items() - told.items() == {(name, given[name]) for name in of_the_head_alone}
    assert told.keys() <= given.keys()


def test_our_heads_overrides_are_a_configuration(
    content: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TEAL_HOME", str(tmp_path))
    line = next(line for line in content["head_start_ray_commands"] if "teal up" in line)
    text = re.sub(r"\$\(.*?\)", "10.0.0.1", line.partition("teal up")[2])
    config = compose(shlex.split(text))
    assert config.cluster.address == "10.0.0.1"
    shared = next(option for option in content["docker"]["run_options"] if option.startswith("--volume"))
    directory = shared.rpartition(":")[2]
    assert all(path.startswith(directory) for path in (config.paths.artifacts, config.paths.payload))
    assert not [found for found in examine_nodes(config.cluster, config.paths.control) if found.status == "error"]


def test_teal_up_starts_a_head_and_no_worker(content: dict[str, Any]) -> None:
    content["worker_start_ray_commands"] = ["teal up"]
    assert "`worker_start_ray_commands` has no `ray start`" in launcher_problems(content)[0]
    content["head_start_ray_commands"] = ["RAY_AUTH_TOKEN=abc teal up"]
    assert "token in plain text" in launcher_problems(content)[0]


@pytest.mark.parametrize("key", ["head_start_ray_commands", "worker_start_ray_commands"])
def test_start_commands_left_to_ray_are_named(content: dict[str, Any], key: str) -> None:
    del content[key]
    (problem,) = launcher_problems(content)
    assert f"`{key}` has no `ray start`" in problem


def test_image_must_be_there_pinned_and_unprivileged(content: dict[str, Any]) -> None:
    content["docker"]["image"] = "registry.example.org:5000/teal:latest"
    content["docker"]["run_options"] = ["--privileged"]
    pinned, privileged = launcher_problems(content)
    assert "'registry.example.org:5000/teal:latest' is not pinned" in pinned
    assert "--privileged" in privileged
    del content["docker"]
    assert "`docker.image` is missing" in launcher_problems(content)[0]


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("teal:0.1.0", True),
        ("host:5000/teal:0.1.0", True),
        ("teal@sha256:" + "a" * 64, True),
        ("teal", False),
        ("host:5000/teal", False),
        ("teal:latest", False),
        ("teal:nightly", False),
        ("teal:dev", False),
    ],
)
def test_pinned_means_that_the_name_does_not_move(image: str, expected: bool) -> None:
    assert is_pinned(image) is expected


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [", "is not YAML"), ("- a", "must be a mapping but is list"), ("", "must be a mapping but is NoneType")],
)
def test_file_that_is_no_mapping_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "cluster.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        check_launcher_file(tmp_path / "cluster.yaml")


def test_every_broken_rule_is_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "cluster.yaml").write_text("cluster_name: x\nprovider: {type: local}\n")
    with pytest.raises(ConfigError) as caught:
        check_launcher_file(tmp_path / "cluster.yaml")
    assert str(caught.value).count("\n- ") == 4


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*/none\.yaml"):
        check_launcher_file(tmp_path / "none.yaml")
