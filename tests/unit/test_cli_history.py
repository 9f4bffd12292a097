"""`teal history`: each kind of row as a line for people."""

import json
from pathlib import Path
from typing import Any

import pytest

from runtime.cli.render_history import describe
from runtime.governance.principals import allow, issue_token
from runtime.store.records import Transition
from tests.rollout_world import ENDPOINT, Site, example_model


def row(action: str, detail: dict[str, Any]) -> Transition:
    return Transition(
        sequence=1, at="", endpoint="e", generation=1, actor="ann", action=action, forced=False, detail=detail,
        previous_hash="", hash="",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("action", "detail", "line"),
    [
        ("shift", {"from": 0, "to": 1250, "canary": "green", "reason": ""}, "green 0 % → 12.5 %"),
        ("rollback", {"from": 500, "to": 0, "canary": "green", "reason": "pager"}, "green 5 % → 0 %: pager"),
        ("promote", {"primary": "green"}, "green is the primary"),
        (
            "training started",
            {"training": "t1", "trigger": {"trigger": "drift", "kind": "drift", "evidence": {"psi": 0.31234}}},
            "t1 by trigger drift (psi 0.3123)",
        ),
        ("training ended", {"training": "t1", "phase": "done", "reason": "v4"}, "t1 done: v4"),
        (
            "request_approval",
            {"approval": "a", "kind": "rollout step", "subject": "f-1", "detail": {"percent": 50}},
            "rollout step f-1 (percent 50)",
        ),
        ("certificate", {"rollout": "f-1", "sha256": "ab" * 32}, "f-1, sha256 abababababab"),
        ("restore", {"backup_head": 7, "replaced_head": [9, "c" * 64], "kept": []},
         "backup head 7, replaced head 9, cccccccccccc"),
        ("shift", {"of": {"another": ["version", 1.0]}, "reason": "old"}, "of (another version, 1): old"),
        ("alert acknowledged", {"reason": "known"}, "known"),
    ],
)  # fmt: skip
def test_a_row_is_a_line(action: str, detail: dict[str, Any], line: str) -> None:
    assert describe(row(action, detail)) == line


def test_no_row_that_teal_writes_is_shown_as_python_prints_it(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.start()
    site.run(120, until="Succeeded")
    issue_token(site.store, "acme", actor="ann", roles=["predict"], endpoints=[ENDPOINT], rate=9)
    allow(site.store, "acme", actor="ann", roles=["operator"])
    site.store.assign_slot(ENDPOINT, None, example_model(1), actor="ann", reason="again")
    training = site.store.start_training(
        ENDPOINT, {"trigger": "nightly", "kind": "schedule", "id": "x", "evidence": {"by": "ann"}}, actor="ann", at=1.0
    )
    site.store.end_training(training.id, "done", reason="registered", actor="ann", at=2.0)
    lines = {one.action: describe(one) for one in site.store.transitions()}
    assert len(lines) >= 8
    for action, line in lines.items():
        assert line, action
        assert not set(line) & set("{}[]"), line
        assert "None" not in line
        assert len(line) < 200, line
    assert lines["rollout start"] == "flights-1 of flights:2, steps 10, 50, 100 %"
    assert (
        lines["set_rights"]
        == f"acme: predict on {ENDPOINT}, 9 requests a second → operator on {ENDPOINT}, 9 requests a second"
    )
    assert json.dumps(lines)
