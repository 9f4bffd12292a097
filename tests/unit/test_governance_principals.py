"""Tokens and rights: what may be asked for, what is kept, what stands in the audit chain."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from runtime.core.errors import ConflictError, NotFoundError, RefusedError, UsageError
from runtime.governance.principals import allow, issue_token, new_token, parse_duration, token_sha256
from runtime.store.control import ControlStore
from runtime.store.principals import Principal, Rights, Token


class UnchangedRows:
    """A store without principals that nobody may write to."""

    def principal(self, name: str) -> Principal | None:
        return None

    def issue_token(
        self, principal: str, rights: Rights, *, token_id: str, sha256: str, expires_at: str | None, actor: str
    ) -> Token:
        raise AssertionError(f"{principal} got a token")

    def set_rights(self, principal: str, rights: Rights, *, actor: str) -> Principal:
        raise AssertionError(f"{principal} got rights")


@pytest.fixture
def store(tmp_path: Path) -> ControlStore:
    store = ControlStore(f"sqlite:///{tmp_path}/control.db")
    store.create_schema()
    return store


def test_only_a_hash_of_the_token_is_kept(store: ControlStore, tmp_path: Path) -> None:
    issued = issue_token(store, "acme", actor="ann")
    assert issued.secret.startswith(f"teal_{issued.token.id}_")
    assert [grant.token_sha256 for grant in store.grants()] == [token_sha256(issued.secret)]
    store.close()
    secret = issued.secret.removeprefix(f"teal_{issued.token.id}_").encode()
    for path in tmp_path.iterdir():
        assert secret not in path.read_bytes()


def test_tokens_are_long_and_no_two_alike() -> None:
    tokens = {new_token()[1] for _ in range(1000)}
    assert len(tokens) == 1000
    assert min(map(len, tokens)) >= len("teal__") + 12 + 43


def test_a_new_principal_may_predict_and_a_known_one_keeps_its_rights(store: ControlStore) -> None:
    first = issue_token(store, "acme", actor="ann")
    assert first.rights == Rights(roles=("predict",), endpoints=None, rate=None)
    given: dict[str, Any] = {"roles": ["feedback", "predict"], "endpoints": ["b", "a", "a"], "rate": 5}
    second = issue_token(store, "other", actor="ann", **given)
    assert second.rights == Rights(roles=("predict", "feedback"), endpoints=("a", "b"), rate=5)
    assert issue_token(store, "other", actor="ann").rights == second.rights
    assert issue_token(store, "other", actor="ann", **given).rights == second.rights
    with pytest.raises(RefusedError, match="teal token allow"):
        issue_token(store, "other", actor="ann", roles=["admin"])
    assert len(store.tokens("other")) == 3


def test_who_came_first_decides_the_rights(store: ControlStore) -> None:
    rights = Rights(roles=("predict",), endpoints=None, rate=None)
    store.issue_token("acme", rights, token_id="1", sha256="1", expires_at=None, actor="ann")
    wider = Rights(roles=("predict", "feedback"), endpoints=None, rate=None)
    with pytest.raises(ConflictError, match="predict, feedback on all endpoints"):
        store.issue_token("acme", wider, token_id="2", sha256="2", expires_at=None, actor="bob")
    assert [token.id for token in store.tokens()] == ["1"]


def test_rights_are_changed_one_by_one(store: ControlStore) -> None:
    issue_token(store, "acme", actor="ann", endpoints=["a"], rate=5)
    assert allow(store, "acme", actor="ann", roles=["operator"]).rights.endpoints == ("a",)
    assert allow(store, "acme", actor="ann", endpoints=["all"]).rights == Rights(
        roles=("operator",), endpoints=None, rate=5
    )
    assert allow(store, "acme", actor="ann", rate=0).rights.rate is None
    with pytest.raises(NotFoundError, match="known: acme"):
        allow(store, "nobody", actor="ann", rate=1)


def test_a_revoked_token_grants_nothing_and_all_or_none_are_revoked(store: ControlStore) -> None:
    ids = [issue_token(store, "acme", actor="ann").token.id for _ in range(3)]
    with pytest.raises(NotFoundError, match="nope"):
        store.revoke_tokens([ids[0], "nope"], actor="ann")
    assert len(store.grants()) == 3
    first = store.revoke_tokens(ids[:2], actor="ann", reason="leaked")
    assert store.revoke_tokens(ids[:2], actor="bob") == first
    assert len(store.grants()) == 1


def test_every_change_is_in_the_audit_chain_once(store: ControlStore) -> None:
    token = issue_token(store, "acme", actor="ann", expires_in=timedelta(days=1)).token
    for _ in range(2):
        allow(store, "acme", actor="bob", rate=7)
        store.revoke_tokens([token.id], actor="cleo", reason="leaked")
    rows = store.transitions()
    assert [(row.actor, row.action) for row in rows] == [
        ("ann", "create_token"),
        ("bob", "set_rights"),
        ("cleo", "revoke_token"),
    ]
    assert (rows[0].detail["token"], rows[1].detail["after"]["rate"], rows[2].detail["reason"]) == (
        token.id,
        7,
        "leaked",
    )
    assert store.verify_audit().faults == []


def test_a_token_expires_when_it_was_said(store: ControlStore) -> None:
    expires_at = issue_token(store, "acme", actor="ann", expires_in=parse_duration("90m")).token.expires_at
    assert expires_at is not None
    left = datetime.fromisoformat(expires_at) - datetime.now(UTC)
    assert timedelta(minutes=89) < left <= timedelta(minutes=90)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"name": "a b"}, "'a b'"),
        ({"name": ""}, "''"),
        ({"name": "x:y"}, "'x:y'"),
        ({"name": "x/y"}, "'x/y'"),
        ({"name": "x\n"}, "name"),
        ({"name": "anonymous"}, "'anonymous'"),
        ({"name": "x" * 65}, "name"),
        ({"roles": ["root"]}, "'root'"),
        ({"endpoints": ["a b"]}, "'a b'"),
        ({"endpoints": ["all", "a"]}, "'all'"),
        ({"rate": -1}, "-1"),
        ({"rate": 10_000_000}, "10000000"),
    ],
)
def test_what_is_not_possible_is_named_and_changes_nothing(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        issue_token(UnchangedRows(), **{"name": "acme", "actor": "ann", **arguments})


@pytest.mark.parametrize("text", ["", "30", "d", "0d", "-1d", "1.5h", "30 d", "1y", "9999999s", "4000d"])
def test_a_strange_duration_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="got"):
        parse_duration(text)


def test_durations() -> None:
    assert [parse_duration(text) for text in ("45s", "12h", "30d", "2w")] == [
        timedelta(seconds=45),
        timedelta(hours=12),
        timedelta(days=30),
        timedelta(days=14),
    ]
