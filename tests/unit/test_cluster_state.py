"""run/cluster.json and the lock."""

import os
import threading
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from runtime.cluster.places import ClusterPlaces
from runtime.cluster.processes import Process, read_process
from runtime.cluster.state import ClusterState, cluster_lock, read_state, write_state
from runtime.config.cluster import PortsConfig
from runtime.core.errors import ConflictError, TealError


def own_process() -> Process:
    process = read_process(os.getpid())
    assert process is not None
    return process


def state_of(vital: list[Process]) -> ClusterState:
    return ClusterState(
        address="127.0.0.1:6379",
        dashboard_url="http://127.0.0.1:8265",
        serve_url="http://127.0.0.1:8000",
        session_dir="/tmp/teal-1/session",
        temp_dir="/tmp/teal-1",
        ports=asdict(PortsConfig()),
        vital=vital,
        started_at="2026-01-01T00:00:00+00:00",
        start_duration_s=9.0,
    )


def places_of(directory: Path) -> ClusterPlaces:
    return ClusterPlaces(run=directory / "run", temp=directory / "temp")


def test_state_comes_back_as_no_longer_new(tmp_path: Path) -> None:
    state = state_of([own_process()])
    write_state(tmp_path / "cluster.json", state)
    assert read_state(tmp_path) == replace(state, is_new=False)
    assert (tmp_path / "cluster.json").stat().st_mode & 0o777 == 0o600


def test_home_without_a_cluster_has_no_state(tmp_path: Path) -> None:
    assert read_state(tmp_path) is None


@pytest.mark.parametrize("vital", [[], [replace(own_process(), start_ticks=1)], [replace(own_process(), pid=1 << 22)]])
def test_dead_cluster_has_no_state_even_if_its_pid_lives_again(tmp_path: Path, vital: list[Process]) -> None:
    write_state(tmp_path / "cluster.json", state_of(vital))
    assert read_state(tmp_path) is None


@pytest.mark.parametrize(
    ("content", "message"), [("{", "is not JSON"), ("[]", "another version"), ('{"address": "x"}', "another version")]
)
def test_file_that_cannot_be_understood_says_what_to_do(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "cluster.json").write_text(content)
    with pytest.raises(TealError, match=rf"{message}.*run `teal down` and `teal up`"):
        read_state(tmp_path)


def test_lock_has_one_holder_and_leaves_no_file(tmp_path: Path) -> None:
    places = places_of(tmp_path)
    with (
        cluster_lock(places, 0),
        pytest.raises(ConflictError, match="another `teal up` or `teal down`"),
        cluster_lock(places, 0),
    ):
        pass
    assert not places.lock.exists()


def test_lock_is_free_after_an_error(tmp_path: Path) -> None:
    places = places_of(tmp_path)
    with pytest.raises(KeyboardInterrupt), cluster_lock(places, 0):
        raise KeyboardInterrupt
    with cluster_lock(places, 0):
        assert places.lock.exists()


def test_waiting_callers_get_the_lock_one_after_another(tmp_path: Path) -> None:
    places, inside, overlaps, done = places_of(tmp_path), [0], [], []

    def work() -> None:
        with cluster_lock(places, 20):
            inside[0] += 1
            overlaps.append(inside[0])
            inside[0] -= 1
        done.append(True)

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 5
    assert set(overlaps) == {1}
