"""What is submitted, and what is refused before anything is."""

import shlex
import sys
from pathlib import Path

import pytest

from runtime.cluster.jobs import entrypoint, job_names, runtime_environment, submit
from runtime.core.errors import UnreachableError, UsageError
from tests.cluster_config import cluster_config


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "jobs").mkdir()
    for name in ("train.py", "deploy.py", "__init__.py", "README.md"):
        (tmp_path / "jobs" / name).touch()
    return tmp_path


def test_jobs_are_the_programs_of_the_directory(project: Path) -> None:
    assert job_names(project) == ["deploy", "train"]


@pytest.mark.parametrize("job", ["trian", "", "../runtime/core/ids", "train.py", "__init__"])
def test_unknown_job_lists_the_jobs(project: Path, job: str) -> None:
    with pytest.raises(UsageError, match=rf"no job '{job}'; the jobs are deploy, train"):
        entrypoint(job, [], project)


def test_project_without_jobs_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the jobs are none"):
        entrypoint("train", [], tmp_path)


def test_overrides_reach_the_job_as_they_are(project: Path) -> None:
    overrides = ["tune.num_samples=8", "data.sources={a: 'b c'}", "x=$(rm -rf /)"]
    assert shlex.split(entrypoint("train", overrides, project)) == [sys.executable, "jobs/train.py", *overrides]


def test_job_gets_the_home_and_no_local_state(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEAL_CONFIGS", "mine")
    environment = runtime_environment(cluster_config(tmp_path / "home"), project)
    assert environment["working_dir"] == str(project)
    assert environment["env_vars"] == {"TEAL_HOME": str(tmp_path / "home"), "TEAL_CONFIGS": str(Path.cwd() / "mine")}
    assert {"/.venv", "/.teal", "/.git", "/.bench", "**/__pycache__"} <= set(environment["excludes"])


def test_submit_without_a_cluster_says_how_to_start_one(project: Path, tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match="start it with `teal up`"):
        submit(cluster_config(tmp_path / "home"), "train", [], project_dir=project)
