"""Processes: which are the cluster's, and how they end. Real processes, no Ray."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.cluster.places import MARKER
from runtime.cluster.processes import end_processes, find_processes, is_alive, read_process, send_signal

Spawn = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    children: list[subprocess.Popen[bytes]] = []

    def run(*command: str, marker: Path | None = None, ready: bool = False) -> subprocess.Popen[bytes]:
        environment = {**os.environ, **({MARKER: str(marker)} if marker else {})}
        child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
        children.append(child)
        if ready:
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
        return child

    yield run
    for child in children:
        child.kill()
        child.wait()
        if child.stdout is not None:
            child.stdout.close()


def pids(temp: Path) -> set[int]:
    return {process.pid for process in find_processes(temp)}


def test_process_is_found_by_the_marker_that_it_inherited(tmp_path: Path, spawn: Spawn) -> None:
    child = spawn("sh", "-c", "sleep 60 & echo ready; wait", marker=tmp_path, ready=True)
    found = find_processes(tmp_path)
    assert child.pid in {process.pid for process in found}
    assert {process.command for process in found} >= {"sleep 60"}


def test_process_of_another_cluster_is_not_found(tmp_path: Path, spawn: Spawn) -> None:
    spawn("sleep", "60", marker=tmp_path / "teal-12345678")
    assert pids(tmp_path / "teal-1234567") == set()


def test_python_program_that_works_in_the_session_is_found_without_a_marker(tmp_path: Path, spawn: Spawn) -> None:
    script = f"open({str(tmp_path / 'worker.log')!r}, 'w') as f: print('ready', flush=True); input()"
    child = subprocess.Popen(
        [sys.executable, "-c", f"with {script}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/"
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    try:
        assert pids(tmp_path) == {child.pid}
    finally:
        child.communicate(b"\n")


def test_driver_and_reader_of_logs_are_not_of_the_cluster(tmp_path: Path, spawn: Spawn) -> None:
    log = tmp_path / "python-core-driver-1.log"
    log.write_text("ready\n")
    spawn("tail", "-f", str(log), ready=True)
    script = f"f = open({str(log)!r}); print('ready', flush=True); import time; time.sleep(60)"
    spawn(sys.executable, "-c", script, ready=True)
    assert pids(tmp_path) == set()


def test_own_process_and_its_parents_are_never_found(tmp_path: Path) -> None:
    with (tmp_path / "worker.log").open("w"):
        assert pids(tmp_path) == set()


def test_processes_end_at_sigterm(tmp_path: Path, spawn: Spawn) -> None:
    child = spawn("sleep", "60", marker=tmp_path)
    ended = end_processes(lambda: find_processes(tmp_path), grace_s=10)
    assert [process.pid for process in ended] == [child.pid]
    assert child.wait() == -signal.SIGTERM


def test_process_that_ignores_sigterm_is_killed(tmp_path: Path, spawn: Spawn) -> None:
    child = spawn("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 60; done", marker=tmp_path, ready=True)
    end_processes(lambda: find_processes(tmp_path), grace_s=0.1)
    assert child.wait() == -signal.SIGKILL
    assert find_processes(tmp_path) == []


def test_reused_pid_is_not_hit(spawn: Spawn) -> None:
    child = spawn("sleep", "60")
    process = read_process(child.pid)
    assert process is not None
    earlier = replace(process, start_ticks=process.start_ticks - 1)
    assert not is_alive(earlier)
    send_signal(earlier, signal.SIGKILL)
    assert child.poll() is None
    send_signal(process, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL


def test_unreaped_process_counts_as_ended(spawn: Spawn) -> None:
    child = spawn("true")
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert read_process(child.pid) is None
