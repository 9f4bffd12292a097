import hashlib
import zipfile
from pathlib import Path

import pytest

from runtime.core.errors import ConfigError, NotFoundError
from runtime.data.sources import resolve_sources, unpacked_path


def test_a_path_and_a_package_file_are_hashed(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"x\n1\n")
    sources = resolve_sources({"a": str(tmp_path / "a.csv"), "b": "package:pyarrow/__init__.py"})
    assert sources["a"].sha256 == hashlib.sha256(b"x\n1\n").hexdigest()
    assert sources["a"].size_bytes == 4
    assert sources["b"].path.name == "__init__.py"
    assert unpacked_path(sources["a"], tmp_path / "cache") == tmp_path / "a.csv"
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("uri", "error", "message"),
    [
        ("/nowhere/a.csv", NotFoundError, "source 'a': no file '/nowhere/a.csv'"),
        ("package:no_such_package/a.csv", NotFoundError, "package 'no_such_package' is not installed"),
        ("package:pyarrow/no.csv", NotFoundError, "source 'a': no file"),
        ("package:pyarrow/../secret", ConfigError, "leads out of the package"),
    ],
)
def test_what_is_not_there_is_named(uri: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        resolve_sources({"a": uri})


def test_a_zip_is_unpacked_once(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.csv.zip", "w") as archive:
        archive.writestr("inner/a.csv", "x\n1\n")
    source = resolve_sources({"a": str(tmp_path / "a.csv.zip")})["a"]
    path = unpacked_path(source, tmp_path / "cache")
    assert path.read_text() == "x\n1\n"
    assert path.is_relative_to(tmp_path / "cache")
    before = path.stat().st_mtime_ns
    assert unpacked_path(source, tmp_path / "cache") == path
    assert path.stat().st_mtime_ns == before
    assert [found.name for found in path.parent.iterdir()] == ["a.csv"]


def test_a_zip_must_be_one_and_hold_one_file(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("a", "1")
        archive.writestr("b", "2")
    (tmp_path / "no.zip").write_text("hello")
    for name, message in (("two.zip", "must hold one file but holds"), ("no.zip", "is no zip file")):
        source = resolve_sources({"a": str(tmp_path / name)})["a"]
        with pytest.raises(ConfigError, match=message):
            unpacked_path(source, tmp_path / "cache")
    assert not list(tmp_path.glob("cache/**/*.csv"))
