"""Fixtures of several tests: one Ray cluster, and on it one platform, for the whole run; the example's model."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from runtime.cluster.free_ports import free_ports
from runtime.config.schema import Config

if TYPE_CHECKING:
    from runtime.models.bundle import Bundle

Teal = Callable[..., subprocess.CompletedProcess[str]]


# Otherwise a call of Ray's from a process that has not joined starts a cluster of its own, and hides the mistake.
os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"


# The same examples each time, so that a commit which passed stays green; `make fuzz` looks for new ones.
settings.register_profile("repeatable", derandomize=True)
settings.register_profile("fuzz", derandomize=False, print_blob=True)
settings.load_profile("repeatable")

_running: list[Config] = []


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test of the cluster, and its fixtures, find this process joined, whatever the test before left."""
    if _running and "cluster" in getattr(item, "fixturenames", ()):
        from runtime.cluster.ray_process import connect

        connect(_running[0])


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Config]:
    """A running Ray cluster that this process has joined; its configuration, with a home and ports of its own."""
    from runtime.cluster.ray_process import connect, disconnect, start, stop
    from runtime.config.compose import compose, save_config

    home = tmp_path_factory.mktemp("teal")
    saved = {name: os.environ.get(name) for name in ("TEAL_HOME", "PYTHONPATH", "TEAL_CONFIGS")}
    # Workers inherit these: the modules of docs/your-own-model.md are made there by its test.
    own = tmp_path_factory.mktemp("own")
    os.environ |= {"TEAL_HOME": str(home), "PYTHONPATH": f"{Path.cwd()}{os.pathsep}{own}", "TEAL_TEST_OWN": str(own)}
    composed = compose([])
    config = replace(composed, cluster=replace(composed.cluster, ports=free_ports()))
    save_config(config, Path(config.paths.run) / "config.json")
    try:
        start(config)
        connect(config)
        _running.append(config)
        yield config
    finally:
        _running.clear()
        disconnect()
        stop(config)
        for name, value in saved.items():
            os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)


@pytest.fixture(scope="session")
def platform(cluster: Config) -> Config:
    """The cluster with control store, edge and monitor on it: what `teal up` leaves."""
    from runtime.cluster.ray_process import connect
    from runtime.pipeline.platform import start_platform
    from runtime.pipeline.progress import Silent

    assert start_platform(cluster, Silent()).is_running
    connect(cluster)
    return cluster


@pytest.fixture(scope="session")
def teal(platform: Config) -> Teal:
    """Runs the command on the platform, in a process of its own, as a user does."""

    def run(*arguments: str, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "runtime.cli", *arguments]
        env = os.environ | {"TEAL_HOME": platform.paths.home, "COLUMNS": "200", "TEAL_ACTOR": "tester"} | environment
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=env, timeout=240)
        assert done.returncode == code, f"teal {' '.join(arguments)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return run


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> "Bundle":
    """The example's model, as a replica loads it."""
    from runtime.models.bundle import load_bundle
    from tests.serving_example import save_example_bundle

    directory = tmp_path_factory.mktemp("bundle") / "b"
    save_example_bundle(directory)
    return load_bundle(directory)
