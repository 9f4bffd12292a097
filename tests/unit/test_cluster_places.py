"""Directories of a home's cluster."""

from dataclasses import replace
from pathlib import Path

import pytest

from runtime.cluster.places import LONGEST_SOCKET_BYTES, MAX_SOCKET_PATH_BYTES, ClusterPlaces
from runtime.core.errors import ConfigError, TealError
from tests.cluster_config import cluster_config


def test_each_home_has_its_own_directory_whatever_way_it_is_written(tmp_path: Path) -> None:
    temp = ClusterPlaces.of(cluster_config(tmp_path / "a")).temp
    assert temp == ClusterPlaces.of(cluster_config(tmp_path / "b" / ".." / "a")).temp
    assert temp != ClusterPlaces.of(cluster_config(tmp_path / "b")).temp


def test_sockets_fit_below_the_default_root(tmp_path: Path) -> None:
    temp = ClusterPlaces.of(cluster_config(tmp_path / ("deep/" * 40))).temp
    assert len(str(temp)) + LONGEST_SOCKET_BYTES <= MAX_SOCKET_PATH_BYTES


def test_root_that_is_too_long_for_sockets_is_refused(tmp_path: Path) -> None:
    config = cluster_config(tmp_path)
    config = replace(config, cluster=replace(config.cluster, temp_root="/" + "long" * 20))
    with pytest.raises(ConfigError, match=r"cluster\.temp_root .* is too long: .* at most 107"):
        ClusterPlaces.of(config)


def test_directories_are_closed_to_others_and_made_twice(tmp_path: Path) -> None:
    places = ClusterPlaces(run=tmp_path / "run", temp=tmp_path / "teal-1")
    places.create()
    places.create()
    assert places.temp.stat().st_mode & 0o777 == 0o700


def test_link_in_the_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "teal-1").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(TealError, match="is not a directory of user"):
        ClusterPlaces(run=tmp_path / "run", temp=tmp_path / "teal-1").create()


def test_root_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot make .*/no/teal-1: No such file"):
        ClusterPlaces(run=tmp_path / "run", temp=tmp_path / "no" / "teal-1").create()
