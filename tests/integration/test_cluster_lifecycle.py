"""Real clusters: start, stop, faults, two homes side by side, jobs.

Clusters are started by child processes, so that this process stays free to be connected to another one.
"""

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.cluster.doctor import examine
from runtime.cluster.free_ports import free_ports
from runtime.cluster.jobs import submit
from runtime.cluster.places import ClusterPlaces
from runtime.cluster.ports import listeners, non_loopback_listeners, port_owner, single_ports
from runtime.cluster.processes import find_processes, is_alive
from runtime.cluster.ray_process import read_state, stop
from runtime.cluster.token import read_token
from runtime.config.compose import save_config
from runtime.config.schema import Config
from tests.cluster_config import cluster_config

ROOT = Path(__file__).resolve().parents[2]
NO_ROUTES = 503
"""What Ray's HAProxy answers to a health check until the first application is deployed."""
START = """
import json, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a script starts in the background
from pathlib import Path
from runtime.cluster.ray_process import start
from runtime.config.compose import load_config
state = start(load_config(Path(sys.argv[1])), on_progress=lambda text: print(text, flush=True))
print(json.dumps([state.is_new, state.address, sorted(process.pid for process in state.vital)]))
"""
CONNECT = """
import sys
from pathlib import Path
from runtime.cluster.ray_process import connect
from runtime.config.compose import load_config
connect(load_config(Path(sys.argv[1])))
import ray
print(ray.get(ray.remote(lambda: ray.get_runtime_context().namespace).remote()))
"""


def spawn(program: str, config: Config) -> subprocess.Popen[str]:
    path = Path(config.paths.home) / "config.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_config(config, path)
    return subprocess.Popen(
        [sys.executable, "-c", program, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def call(program: str, config: Config) -> list[str]:
    child = spawn(program, config)
    output, errors = child.communicate(timeout=100)
    assert child.returncode == 0, errors
    return output.splitlines()


def new_config(directory: Path) -> Config:
    return cluster_config(directory / "home", ports=free_ports())


def check_nothing_is_left(config: Config) -> None:
    places = ClusterPlaces.of(config)
    assert find_processes(places.temp) == []
    assert not places.temp.exists()
    assert read_state(config.paths.run) is None
    assert not places.state.exists()
    assert not places.lock.exists()
    held = {listener.port for listener in listeners()} & set(single_ports(config.cluster.ports).values())
    assert held == set()


def status_of(url: str, token: str | None = None) -> int:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Config]:
    config = new_config(tmp_path_factory.mktemp("cluster"))
    try:
        is_new, address, vital = json.loads(call(START, config)[-1])
        assert is_new
        assert address == f"127.0.0.1:{config.cluster.ports.gcs}"
        assert len(vital) == 2
        yield config
    finally:
        stop(config)
        check_nothing_is_left(config)


def test_second_start_returns_the_running_cluster(running: Config) -> None:
    before = read_state(running.paths.run)
    assert before is not None
    is_new, address, vital = json.loads(call(START, running)[-1])
    assert (is_new, address, vital) == (False, before.address, sorted(process.pid for process in before.vital))


def test_driver_connects_and_runs_a_task(running: Config) -> None:
    assert call(CONNECT, running) == ["teal"]


def test_cluster_is_closed(running: Config) -> None:
    state = read_state(running.paths.run)
    assert state is not None
    assert non_loopback_listeners({process.pid for process in find_processes(Path(state.temp_dir))}) == []
    assert status_of(f"{state.dashboard_url}/api/version") in (401, 403)
    assert status_of(f"{state.dashboard_url}/api/version", "0" * 64) in (401, 403)
    assert status_of(f"{state.dashboard_url}/api/version", read_token(running.paths.run)) == 200
    assert status_of(f"{state.serve_url}/-/healthz") == NO_ROUTES
    # Ray opens its own directories and HAProxy's admin socket to everybody.
    assert Path(state.temp_dir).stat().st_mode & 0o777 == 0o700


def test_doctor_finds_the_running_cluster_well(running: Config) -> None:
    findings = {finding.name: finding for finding in examine(running)}
    assert findings["cluster"].detail.startswith("runs at 127.0.0.1:")
    assert [finding for finding in findings.values() if finding.status == "error"] == []
    assert findings["exposure"].status == "ok"


def test_job_runs_in_a_copy_of_the_project_and_its_exit_code_comes_back(running: Config, tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / ".teal").mkdir()
    (tmp_path / ".teal" / "control.db").write_text("private")
    program = "import os, sys; print(os.environ['TEAL_HOME'], os.path.exists('.teal'), sys.argv[1:]); sys.exit(3)"
    (tmp_path / "jobs" / "hello.py").write_text(program)
    output: list[str] = []
    result = submit(running, "hello", ["a=b c"], output.append, project_dir=tmp_path)
    assert (result.status, result.exit_code) == ("FAILED", 3)
    assert f"{running.paths.home} False ['a=b c']" in "".join(output)


def test_two_homes_do_not_disturb_each_other_even_if_one_loses_its_raylet(running: Config, tmp_path: Path) -> None:
    other = new_config(tmp_path)
    try:
        call(START, other)
        state, neighbour = read_state(other.paths.run), read_state(running.paths.run)
        assert state is not None
        assert neighbour is not None
        neighbours = find_processes(Path(neighbour.temp_dir))
        assert not {process.pid for process in find_processes(Path(state.temp_dir))} & {
            process.pid for process in neighbours
        }
        (raylet,) = [process for process in state.vital if "/raylet/raylet " in process.command]
        os.kill(raylet.pid, signal.SIGKILL)
        assert stop(other) is True
        check_nothing_is_left(other)
        assert all(is_alive(process) for process in neighbours)
        assert status_of(f"{neighbour.serve_url}/-/healthz") == NO_ROUTES
        assert stop(other) is False
    finally:
        stop(other)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_start_is_cleared(tmp_path: Path, number: signal.Signals) -> None:
    """At the interrupt `ray start` is running and its control service listens."""
    config = new_config(tmp_path)
    child = spawn(START, config)
    try:
        while port_owner(config.cluster.ports.gcs) is None:
            with pytest.raises(subprocess.TimeoutExpired):
                child.wait(0.05)
        child.send_signal(number)
        child.communicate(timeout=60)
        assert child.returncode != 0
        if number == signal.SIGKILL:
            assert read_state(config.paths.run) is None
            assert {finding.name: finding.status for finding in examine(config)}["cluster"] == "warning"
            assert stop(config) is True
        check_nothing_is_left(config)
    finally:
        stop(config)
