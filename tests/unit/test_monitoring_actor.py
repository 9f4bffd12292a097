"""What the monitor's commands say where there is no cluster."""

import pytest
import ray

from runtime.core.errors import UnreachableError
from runtime.monitoring.actor import _find


def test_asking_without_a_cluster_starts_none() -> None:
    if ray.is_initialized():
        pytest.skip("this process has joined a cluster")
    with pytest.raises(UnreachableError, match="teal up"):
        _find()
    assert not ray.is_initialized()
