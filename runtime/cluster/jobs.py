"""Run a file of `jobs/` on the cluster through the Ray Jobs API, and follow its output."""

import asyncio
import logging
import os
import shlex
import sys
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.cluster.ray_process import apply_environment
from runtime.cluster.state import read_state
from runtime.config.compose import SEARCH_VARIABLE
from runtime.config.schema import Config
from runtime.core.errors import TealError, UnreachableError, UsageError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

PROJECT_DIR = Path(__file__).resolve().parents[2]
EXCLUDES = (
    ".venv",
    ".teal",
    ".git",
    ".bench",
    ".*_cache",
    "__pycache__",
    "demo",
    "build",
    "dist",
    "outputs",
    "multirun",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class JobResult:
    job_id: str
    status: str
    """SUCCEEDED, FAILED or STOPPED."""
    exit_code: int
    """The job's own, or 1 where it had none."""
    message: str


def job_names(project_dir: Path = PROJECT_DIR) -> list[str]:
    return sorted(path.stem for path in (project_dir / "jobs").glob("*.py") if not path.name.startswith("_"))


def entrypoint(job: str, overrides: Sequence[str], project_dir: Path = PROJECT_DIR) -> str:
    """The shell command of a job. UsageError for a name that is none of `jobs/`."""
    names = job_names(project_dir)
    if job not in names:
        raise UsageError(f"there is no job {job!r}; the jobs are {', '.join(names) or 'none'} (files of jobs/)")
    # This interpreter, as the cluster's search path need not have a `python` of the same environment.
    return shlex.join([sys.executable, f"jobs/{job}.py", *overrides])


def runtime_environment(config: Config, project_dir: Path = PROJECT_DIR) -> dict[str, Any]:
    variables = {"TEAL_HOME": str(Path(config.paths.home).absolute())}
    if directories := os.environ.get(SEARCH_VARIABLE):
        variables[SEARCH_VARIABLE] = os.pathsep.join(
            str(Path(name).absolute()) for name in directories.split(os.pathsep)
        )
    return {
        "working_dir": str(project_dir),
        "excludes": [f"/{name}" if not name.startswith(("__", ".*")) else f"**/{name}" for name in EXCLUDES],
        "env_vars": variables,
    }


def submit(
    config: Config,
    job: str,
    overrides: Sequence[str],
    on_log: Callable[[str], None] | None = None,
    *,
    project_dir: Path = PROJECT_DIR,
) -> JobResult:
    """Submit the job, give its output to `on_log` as it comes, and wait for its end. An interrupt stops the job.

    UsageError for an unknown job, UnreachableError if no cluster runs.
    """
    command = entrypoint(job, overrides, project_dir)
    state = read_state(config.paths.run)
    if state is None:
        raise UnreachableError(
            f"no cluster is running for {Path(config.paths.home).absolute()}; start it with `teal up`"
        )
    apply_environment(config)
    from ray.job_submission import JobSubmissionClient

    # What is packed and uploaded is Ray's own affair; the job's output is what was asked for.
    logging.getLogger("ray").setLevel(logging.ERROR)
    job_id = f"{job}-{uuid.uuid4().hex[:8]}"
    try:
        client = JobSubmissionClient(state.dashboard_url)
        client.submit_job(
            entrypoint=command, submission_id=job_id, runtime_env=runtime_environment(config, project_dir)
        )
    except (ConnectionError, RuntimeError) as error:
        raise UnreachableError(f"the Jobs API at {state.dashboard_url} refused job {job!r}: {error}") from error
    try:
        asyncio.run(_follow(client, job_id, on_log or (lambda _: None)))
    except KeyboardInterrupt:
        client.stop_job(job_id)
        raise
    return _result(client, job_id)


async def _follow(client: "JobSubmissionClient", job_id: str, on_log: Callable[[str], None]) -> None:
    try:
        async for text in client.tail_job_logs(job_id):
            on_log(text)
    except RuntimeError as error:
        raise TealError(f"the output of job {job_id} ended early ({error}); see `ray job logs {job_id}`") from error


def _result(client: "JobSubmissionClient", job_id: str) -> JobResult:
    details = client.get_job_info(job_id)
    status = str(details.status)
    code = details.driver_exit_code
    if code is None:
        code = 0 if status == "SUCCEEDED" else 1
    return JobResult(job_id=job_id, status=status, exit_code=code, message=details.message or "")
