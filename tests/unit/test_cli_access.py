"""`teal token` and `teal certificate` as a user types them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from runtime.cli.context import saved_config_path
from runtime.cli.main import app
from runtime.config.compose import save_config
from runtime.config.serving import EdgeConfig
from runtime.core.errors import RefusedError, UsageError
from runtime.governance.principals import token_sha256
from runtime.serving.edge_files import EdgeFiles
from runtime.store.control import ControlStore
from tests.cluster_config import cluster_config


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TEAL_HOME", str(tmp_path))
    save_config(replace(cluster_config(tmp_path), edge=EdgeConfig(tls=True)), saved_config_path())
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), catch_exceptions=True)


def read(*arguments: str) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_tokens_life(home: Path) -> None:
    created = run("token", "create", "acme", "--endpoint", "flights", "--rate", "9", "--expires", "30d")
    secret = created.stdout.strip()
    assert "\n" not in secret
    store = ControlStore(f"sqlite:///{home}/control.db")
    assert [(grant.token_sha256, grant.rate) for grant in store.grants()] == [(token_sha256(secret), 9)]
    assert read("token", "allow", "acme", "--role", "operator")["rights"]["roles"] == ["operator"]
    assert "operator on" in run("token", "list").stdout
    listed = read("token", "list")["tokens"]
    assert [entry["state"] for entry in listed] == ["valid"]
    assert secret not in json.dumps(listed)
    assert run("token", "revoke", listed[0]["token"]["id"]).exit_code == 0
    assert [entry["state"] for entry in read("token", "list")["tokens"]] == ["revoked"]
    assert store.grants() == []
    hint = EdgeFiles(directory=home / "run" / "edge").hint
    assert hint.exists()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["token", "create", "a b"], UsageError),
        (["token", "create", "acme", "--role", "root"], UsageError),
        (["token", "create", "acme", "--expires", "soon"], UsageError),
        (["token", "allow", "acme"], UsageError),
        (["token", "revoke"], UsageError),
        (["token", "revoke", "x", "--principal", "y"], UsageError),
        (["token", "revoke", "--principal", "y"], RefusedError),
    ],
)
def test_what_is_wrong_is_said(home: Path, arguments: list[str], error: type[Exception]) -> None:
    assert home.exists()
    assert isinstance(run(*arguments).exception, error)


def test_the_certificate_to_trust_is_named(home: Path) -> None:
    shown = read("certificate")
    assert shown["facts"]["signs_itself"]
    assert Path(shown["to_trust"]).read_text().startswith("-----BEGIN CERTIFICATE-----")
    assert Path(shown["to_trust"]).is_relative_to(home)
