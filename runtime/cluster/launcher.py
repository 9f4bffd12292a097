"""Rules for a file of Ray's cluster launcher (`ray up cluster.yaml`), stricter than Ray's own schema."""

import re
from pathlib import Path
from typing import Any

import yaml

from runtime.core.errors import ConfigError

ALL_INTERFACES = re.compile(r"--dashboard-host[= ]+['\"]?(0\.0\.0\.0|::|\*)")
RAY_START = re.compile(r"\bray\s+start\b")
TEAL_UP = re.compile(r"\bteal\s+up\b")
"""Starts Ray with a token and a closed dashboard, whatever else it is told."""
AUTH_MODE = re.compile(r"\bRAY_AUTH_MODE=['\"]?token\b")
LITERAL_TOKEN = re.compile(r"\bRAY_AUTH_TOKEN=")
COMMANDS = ("head_start_ray_commands", "worker_start_ray_commands")
MOVING_TAGS = ("", "latest", "nightly", "main", "master", "stable")


def check_launcher_file(path: Path) -> dict[str, Any]:
    """The file's content. ConfigError that names every broken rule and its remedy."""
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must be a mapping but is {type(content).__name__}")
    problems = launcher_problems(content)
    if problems:
        raise ConfigError(f"{path} is not safe to launch:\n" + "\n".join(f"- {problem}" for problem in problems))
    return content


def launcher_problems(content: dict[str, Any]) -> list[str]:
    return [*_auth_problems(content), *_image_problems(content), *_command_problems(content)]


def _auth_problems(content: dict[str, Any]) -> list[str]:
    auth = content.get("auth")
    if not isinstance(auth, dict) or not auth:
        return ["`auth` is missing: Ray accepts that and falls back to defaults; name ssh_user and ssh_private_key"]
    return [f"`auth.{key}` is missing" for key in ("ssh_user", "ssh_private_key") if not auth.get(key)]


def _image_problems(content: dict[str, Any]) -> list[str]:
    docker = content.get("docker")
    image = docker.get("image") if isinstance(docker, dict) else None
    if not image or not isinstance(docker, dict):
        return ["`docker.image` is missing: nodes would run whatever is installed on them; name a pinned image"]
    problems = []
    if not is_pinned(str(image)):
        problems.append(f"`docker.image` {image!r} is not pinned; give it a version tag or a sha256 digest")
    if any("--privileged" in str(option) for option in docker.get("run_options") or []):
        problems.append("`docker.run_options` has --privileged: a job could leave its container; remove it")
    return problems


def is_pinned(image: str) -> bool:
    """True for `name@sha256:...` and for a tag that does not move, such as `name:1.2.3`."""
    if "@sha256:" in image:
        return True
    # A colon before the last slash belongs to the registry's port.
    tag = image.rpartition("/")[2].partition(":")[2]
    return tag.lower() not in MOVING_TAGS and any(character.isdigit() for character in tag)


def _command_problems(content: dict[str, Any]) -> list[str]:
    problems = []
    for key in COMMANDS:
        found = content.get(key)
        lines = [str(line) for line in found] if isinstance(found, list) else []
        starts = [line for line in lines if RAY_START.search(line)]
        is_by_teal = key == COMMANDS[0] and any(TEAL_UP.search(line) for line in lines)
        if not starts and not is_by_teal:
            problems.append(f"`{key}` has no `ray start`: Ray's default starts it without a token; write it out")
        for line in starts:
            if not AUTH_MODE.search(line):
                problems.append(f"`{key}` starts Ray without RAY_AUTH_MODE=token: {line!r}")
            if ALL_INTERFACES.search(line):
                problems.append(
                    f"`{key}` opens the dashboard to every interface: {line!r}; use --dashboard-host=127.0.0.1"
                )
        if any(LITERAL_TOKEN.search(line) for line in lines):
            problems.append(f"`{key}` holds a token in plain text; use RAY_AUTH_TOKEN_PATH")
    return problems
