"""Rules for the Dockerfile, by reading it: no Docker is needed."""

import re
from pathlib import Path

import pytest

from runtime.cluster.launcher import is_pinned

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def instructions() -> list[tuple[str, str]]:
    """(instruction, arguments) in order; continued lines joined, comments left out."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\s*\n\s*", " ", "\n".join(lines))
    pairs = [line.split(None, 1) for line in joined.splitlines() if line.strip()]
    return [(name.upper(), rest) for name, rest in pairs]


def arguments(instructions: list[tuple[str, str]], name: str) -> list[str]:
    return [rest for instruction, rest in instructions if instruction == name]


def test_base_is_pinned_to_a_version_of_python_311(instructions: list[tuple[str, str]]) -> None:
    (base,) = arguments(instructions, "FROM")
    assert is_pinned(base)
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", base)


def test_it_runs_as_a_user_without_rights_and_never_changes_back(instructions: list[tuple[str, str]]) -> None:
    users = arguments(instructions, "USER")
    assert users == ["teal"]
    names = [name for name, _ in instructions]
    assert names.index("USER") < names.index("ENTRYPOINT")
    assert "RUN" not in names[names.index("USER") :]


def test_packages_are_those_of_the_constraints(instructions: list[tuple[str, str]]) -> None:
    installs = [run for run in arguments(instructions, "RUN") if "pip install" in run]
    assert installs
    assert all("--constraint constraints.txt" in run for run in installs)


def test_only_named_files_are_copied_and_they_exist(instructions: list[tuple[str, str]]) -> None:
    sources = [source for copy in arguments(instructions, "COPY") for source in copy.split()[:-1]]
    assert all((ROOT / source).exists() for source in sources)
    assert not {".", "*", "./", ".teal", ".git"} & set(sources)
    assert "ADD" not in [name for name, _ in instructions]


def test_no_secret_is_built_in(instructions: list[tuple[str, str]]) -> None:
    settings = " ".join(arguments(instructions, "ENV") + arguments(instructions, "ARG"))
    assert not re.search(r"token|secret|password|credential|api_?key", settings, re.IGNORECASE)
