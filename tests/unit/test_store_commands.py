"""`teal backup`, `teal restore` and `teal notify`: what a user gets, and what is refused with which exit code."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from runtime.cli import store_commands
from runtime.cli.context import saved_config_path
from runtime.config.compose import compose, save_config
from runtime.core.errors import ConfigError, NotFoundError, RefusedError, UnreachableError
from runtime.store.control import ControlStore
from tests.store_conformance import deploy_two, model


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TEAL_HOME", str(tmp_path))
    monkeypatch.setenv("TEAL_ACTOR", "tester")
    save_config(compose(["notify.sinks.team={kind: slack, url_env: TEAL_TEST_SLACK_URL}"]), saved_config_path())
    return tmp_path


def teal(*arguments: str) -> str:
    app = typer.Typer()
    store_commands.register(app)
    done = CliRunner().invoke(app, list(arguments))
    if isinstance(done.exception, Exception):
        raise done.exception
    return done.output


def test_a_store_is_saved_and_brought_back_by_one_command_each(home: Path) -> None:
    store = ControlStore(f"sqlite:///{home}/control.db")
    store.create_schema()
    for version in (1, 2):
        store.record_model_version(model(version))
    before = deploy_two(store)
    saved = json.loads(teal("backup", f"{home}/b.jsonl", "--json"))
    assert (saved["num_rows"]["transitions"], saved["head"]["sequence"], saved["faults"]) == (2, 2, [])
    assert (home / "b.jsonl").stat().st_mode & 0o777 == 0o600
    with pytest.raises(RefusedError, match=r"is not empty: .* --force replaces it"):
        teal("restore", f"{home}/b.jsonl")
    assert store.endpoint("flights") == before
    assert "chain up to row 2" in teal("restore", f"{home}/b.jsonl", "--force")
    assert (store.endpoint("flights").green, store.transitions()[-1].actor) == (before.green, "tester")
    store.close()


def test_what_cannot_be_saved_or_brought_back_says_so(home: Path) -> None:
    with pytest.raises(UnreachableError, match="run `teal up` first"):
        teal("backup", f"{home}/b.jsonl")
    assert not (home / "b.jsonl").exists()
    with pytest.raises(NotFoundError, match="there is no backup"):
        teal("restore", f"{home}/none.jsonl")
    assert not (home / "control.db").exists()


def test_a_receiver_is_shown_and_tested(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ControlStore(f"sqlite:///{home}/control.db").create_schema()
    assert json.loads(teal("notify", "status", "--json")) == [
        {"sink": "team", "kind": "slack", "waiting": 0, "error": None}
    ]
    assert json.loads(teal("notify", "flush", "--json"))["num_sent"] == 0
    with pytest.raises(ConfigError, match="environment variable TEAL_TEST_SLACK_URL is empty"):
        teal("notify", "test", "team")
    monkeypatch.setenv("TEAL_TEST_SLACK_URL", "http://127.0.0.1:9/hook")
    with pytest.raises(UnreachableError, match="receiver 'team' did not take the test event"):
        teal("notify", "test", "team")
