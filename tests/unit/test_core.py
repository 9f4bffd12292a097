"""Ids, hashes, atomic files, import paths."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.core.errors import ConfigError
from runtime.core.files import write_atomic
from runtime.core.hashing import canonical_json, sha256_file, sha256_json
from runtime.core.ids import format_uuid7, new_id, timestamp_ms
from runtime.core.imports import load_object


@given(st.integers(0, (1 << 48) - 1), st.binary(min_size=10, max_size=10))
def test_a_uuid7_keeps_its_time_version_and_variant(timestamp: int, randomness: bytes) -> None:
    text = format_uuid7(timestamp, randomness)
    assert timestamp_ms(text) == timestamp
    assert len(text) == 36
    assert text[14] == "7"
    assert text[19] in "89ab"


def test_new_ids_differ() -> None:
    assert len({new_id() for _ in range(1000)}) == 1000


@pytest.mark.parametrize("text", ["", "abc", "00000000-0000-4000-8000-000000000000"])
def test_what_is_no_uuid7_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a uuid7"):
        timestamp_ms(text)


def test_equal_values_hash_alike_whatever_their_order() -> None:
    assert sha256_json({"a": 1, "b": [1.5, None]}) == sha256_json({"b": [1.5, None], "a": 1})
    assert canonical_json({"ä": 1}) == '{"ä":1}'
    with pytest.raises(ValueError, match="JSON"):
        sha256_json(float("nan"))


def test_a_files_hash_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert sha256_file(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomic(path, "old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_written_file_has_the_asked_mode(tmp_path: Path) -> None:
    write_atomic(tmp_path / "secret", b"x", mode=0o600)
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600


def test_objects_come_from_allowed_modules_only() -> None:
    assert load_object("runtime.core.ids:new_id", ["runtime.core"]) is new_id
    with pytest.raises(ConfigError, match="outside the allowed modules"):
        load_object("os:system", ["runtime"])
    with pytest.raises(ConfigError, match="outside the allowed modules"):
        load_object("runtimes.core:x", ["runtime"])
    with pytest.raises(ConfigError, match="must look like"):
        load_object("runtime.core.ids", ["runtime"])
    with pytest.raises(ConfigError, match="has no 'nothing'"):
        load_object("runtime.core.ids:nothing", ["runtime"])
    with pytest.raises(ConfigError, match="cannot import"):
        load_object("runtime.core.nowhere:x", ["runtime"])
