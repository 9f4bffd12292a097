"""cluster.yaml and our rules for it. Ray's own schema: tests/integration/test_cluster_launcher.py."""

import copy
from pathlib import Path
from typing import Any

import pytest

from runtime.cluster.launcher import check_launcher_file, is_pinned, launcher_problems
from runtime.core.errors import ConfigError

FILE = Path(__file__).resolve().parents[2] / "cluster.yaml"


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
    content["head_start_ray_commands"] = [line.replace(old, new) for line in content["head_start_ray_commands"]]
    (found,) = launcher_problems(content)
    assert problem in found
    assert "head_start_ray_commands" in found


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
