"""The secret is made once, kept private, and never taken from a file that others can read."""

from pathlib import Path

import pytest

from runtime.core.errors import TealError
from runtime.serving.edge_files import SECRET, EdgeFiles, ensure_secret, read_secret, touch_hint
from tests.serving_example import example_config


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SECRET[0], raising=False)


def test_the_secret_is_made_once_with_mode_0600(tmp_path: Path) -> None:
    paths = example_config(tmp_path).paths
    secret = ensure_secret(paths)
    assert len(secret) == 64
    assert ensure_secret(paths) == secret == read_secret(paths.run)
    assert EdgeFiles.of(paths).secret.stat().st_mode & 0o777 == 0o600


def test_the_environment_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SECRET[0], "of-the-environment")
    assert read_secret(str(tmp_path)) == "of-the-environment"


def test_a_secret_that_others_can_read_is_refused(tmp_path: Path) -> None:
    paths = example_config(tmp_path).paths
    ensure_secret(paths)
    EdgeFiles.of(paths).secret.chmod(0o644)
    with pytest.raises(TealError, match=r"mode 0644.*chmod 600"):
        read_secret(paths.run)


@pytest.mark.parametrize("content", ["", "short"])
def test_a_weak_secret_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "edge_secret"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(TealError, match=f"has {len(content)} characters"):
        read_secret(str(tmp_path))


def test_without_a_secret_the_remedy_is_named(tmp_path: Path) -> None:
    with pytest.raises(TealError, match="teal up"):
        read_secret(str(tmp_path))


def test_a_hint_changes_the_files_time(tmp_path: Path) -> None:
    paths = example_config(tmp_path).paths
    touch_hint(paths)
    before = EdgeFiles.of(paths).hint.stat().st_mtime_ns
    touch_hint(paths)
    assert EdgeFiles.of(paths).hint.stat().st_mtime_ns > before
