"""`teal rollout` and its neighbours as they are typed: exit codes, JSON, drawings. Nothing runs but the store."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from runtime.cli.main import app
from runtime.cli.rollout_commands import _progress_text
from runtime.config.compose import save_config
from runtime.core.errors import TealError
from tests.cluster_config import cluster_config
from tests.rollout_kills import COUNTED
from tests.rollout_world import ENDPOINT, Site, example_plan

runner = CliRunner()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("TEAL_HOME", str(tmp_path))
    monkeypatch.setenv("TEAL_ACTOR", "ann")
    monkeypatch.setenv("COLUMNS", "200")
    save_config(cluster_config(tmp_path), tmp_path / "run" / "config.json")
    site = Site(tmp_path)
    yield site
    site.store.close()


def teal(*arguments: str, fails: str | None = None, code: int = 0) -> str:
    done = runner.invoke(app, arguments)
    if fails is not None:
        assert isinstance(done.exception, TealError), done.output
        assert fails in str(done.exception)
        assert done.exception.exit_code == code
        return ""
    assert done.exit_code == 0, f"{done.output}{done.exception}"
    return done.stdout


def shown(*arguments: str) -> Any:
    return json.loads(teal(*arguments, "--json"))


def test_a_rollout_by_the_command_from_start_to_abort(site: Site) -> None:
    assert "nothing was started" in teal("rollout", "start", "--dry-run", "--plan", "fast")
    assert site.store.rollouts() == []
    started = shown("rollout", "start", "--plan", "fast", "--key", "k")
    assert (started["id"], started["phase"], started["note"]) == (
        "flights-1",
        "Pending",
        "no controller looks after it; `teal up` starts one",
    )
    assert shown("rollout", "start", "--plan", "fast", "--key", "k")["id"] == "flights-1"
    teal("rollout", "start", fails="rollout flights-1 of 'flights' is Pending: started by ann at", code=3)
    site.run(3)
    assert shown("rollout", "pause", "flights-1", "--reason", "lunch")["phase"] == "Paused"
    teal("rollout", "pause", fails="a rollout that is Paused cannot pause", code=3)
    assert shown("rollout", "resume", ENDPOINT)["phase"] == "Progressing"
    teal("shift", "30", fails="rollout flights-1 of 'flights' moves its traffic", code=3)
    aborted = shown("rollout", "abort")
    assert (aborted["phase"], aborted["share"]) == ("RollingBack", 0)
    site.run(10, until="Aborted")
    teal("rollout", "promote", "flights-1", fails="is Aborted since", code=3)
    assert "Aborted" in teal("rollout", "history")


def test_status_draws_the_evidence_against_its_threshold_and_writes_the_page(site: Site, tmp_path: Path) -> None:
    site.start()
    assert "nothing was counted yet" in teal("rollout", "status")
    site.world.error_rate["green"] = 0.05
    site.run(60, until="RolledBack")
    page = tmp_path / "page.html"
    drawn = teal("rollout", "status", "--html", str(page))
    assert "1/α ┤" in drawn
    assert "█" in drawn
    assert "against the canary: log E" in drawn
    assert "<svg" in page.read_text()


def test_status_shows_the_shadow_the_steps_and_why_it_ended(site: Site) -> None:
    site.plan = example_plan(shadow={"fraction": 0.5, "min_requests": 1000})
    site.start()
    site.run(3)
    site.store.record_shadow(site.rollout.id, "r1", COUNTED | {"failed": 1}, at=1.0)
    drawn = teal("rollout", "status")
    assert "Inconclusive: 21 of 1,000 requests compared in the shadow" in drawn
    assert "● shadow  →  ○ 10 %  →  ○ 50 %  →  ○ 100 %" in drawn
    assert shown("rollout", "status")["shadow"]["failed"] == 1
    assert _progress_text(site.store, site.rollout).endswith(
        "no traffic yet: 21 of 1,000 requests compared in the shadow"
    )
    site.store.record_shadow(site.rollout.id, "r1", COUNTED | {"compared": 1000}, at=1.0)
    site.run(5)
    assert "Progressing, at 10 %, " in (text := _progress_text(site.store, site.rollout))
    assert "against it" in text
    site.world.error_rate["green"] = 0.1
    site.run(60, until="RolledBack")
    drawn = teal("rollout", "status")
    assert "✓ shadow  →  ✗ 10 %" in drawn
    assert "the canary is worse than its margin, most so in errors" in drawn
    assert "most so in errors" in teal("rollout", "history")


def test_approve_needs_another_person(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    teal("rollout", "start", "--plan", "cautious")
    site.run(2)
    teal("approve", fails="somebody else has to approve", code=3)
    monkeypatch.setenv("TEAL_ACTOR", "bob")
    assert shown("approve", "flights-1", "--reason", "looked at it")["decided_by"] == "bob"
    teal("approve", fails="waits for no approval", code=2)


def test_rollback_and_forced_shift_end_a_rollout(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.rollout.traffic.wait_acknowledged", lambda *_: 0.0)
    monkeypatch.setattr("runtime.rollout.operations.check_slot_ready", lambda *_: None)
    site.start()
    site.run(3)
    assert shown("rollback", "--reason", "page")["endpoint"]["share"] == 0
    assert site.rollout.reason == "rollback to 0 % by ann"
    site.start()
    assert shown("shift", "30", "--force")["endpoint"]["share"] == 3000
    assert site.rollout.phase == "Aborted"
    assert shown("rollback", "--version", "1")["endpoint"]["share"] == 0
    assert shown("rollback", "--version", "2")["endpoint"]["share"] == 10_000
    teal("rollback", "--version", "9", fails="no slot of 'flights' holds version 9, they hold flights:1", code=2)
    teal("rollback", "--version", "1", "--to", "5", fails="not both", code=2)


@pytest.mark.parametrize(
    ("arguments", "fails", "code"),
    [
        (("shift", "101"), "a share must be within 0..100 %", 2),
        (("shift", "ten"), "must be a percentage", 2),
        (("rollout", "start", "nowhere"), "no endpoint 'nowhere'; known: flights", 2),
        (("rollout", "start", "--plan", "standrad"), "Could not find 'rollout/standrad'", 2),
        (("rollout", "start", "--expect-rps", "0.1"), "needs about", 2),
        (("rollout", "plan", "standard", "--expect-rps", "0.1"), "needs about", 2),
        (("rollout", "status", "flights-7"), "no rollout 'flights-7'", 2),
        (("rollout", "status"), "no rollout of 'flights' yet", 2),
        (("rollout", "certificate", "flights-7"), "no rollout 'flights-7'", 2),
        (("audit", "verify", "--head", "x"), "--head must look like SEQUENCE:HASH", 2),
    ],
)
def test_bad_input_says_what_and_changes_nothing(site: Site, arguments: tuple[str, ...], fails: str, code: int) -> None:
    rows = len(site.store.transitions())
    teal(*arguments, fails=fails, code=code)
    assert (len(site.store.transitions()), site.store.rollouts()) == (rows, [])


def test_the_chain_is_verified_to_its_end(site: Site) -> None:
    assert "is whole; it ends at" in teal("audit", "verify")
    teal("audit", "verify", "--head", "99:abc", fails="the audit chain is broken", code=3)
