"""What every control store promises of its backups."""

import hashlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.core.errors import ConflictError, NotFoundError, RefusedError, TealError, UsageError
from runtime.store.control import ControlStore
from runtime.store.principals import Rights
from runtime.store.restoring import RESTORE_STEP
from tests.store_conformance import StoreTests, deploy_two


class BackupConformance(StoreTests):
    @pytest.fixture
    def other(self, tmp_path: Path) -> Iterator[ControlStore]:
        """An empty embedded store to restore into."""
        store = ControlStore(f"sqlite:///{tmp_path}/other/control.db")
        yield store
        store.close()

    def fill(self, store: ControlStore) -> None:
        deploy_two(store)
        store.set_share("flights", 700, actor="ann")
        store.request_approval("deploy", "flights:3", author="ann")
        store.acquire_lease("controller", "a", 10, now=100)
        store.subscribe("hook", ["news"])
        store.enqueue("news", {"text": "grün, «quoted»\n"}, at=1.5)
        store.record_step("k", "step", {"nested": [1, 2.5, None, True]})

    def test_a_backup_brings_everything_back_in_any_database(
        self, store: ControlStore, other: ControlStore, tmp_path: Path
    ) -> None:
        self.fill(store)
        summary = store.backup(tmp_path / "b.jsonl")
        assert (summary.faults, summary.head) == ([], store.head())
        restored = other.restore(tmp_path / "b.jsonl", actor="bob")
        assert restored.num_rows == summary.num_rows
        before, after = store.endpoint("flights"), other.endpoint("flights")
        assert (after.share, after.green, after.generation) == (700, before.green, before.generation + RESTORE_STEP)
        assert other.transitions()[:-1] == store.transitions()
        assert (other.transitions()[-1].action, other.transitions()[-1].actor) == ("restore", "bob")
        assert other.approvals() == store.approvals()
        assert other.pending("hook", now=9) == store.pending("hook", now=9)
        assert other.step_outputs("k") == {"nested": [1, 2.5, None, True]}
        assert other.verify_audit().faults == []
        other.enqueue("news", {}, at=2.0)
        assert len(other.pending("hook", now=9)) == 2
        # And back: what was restored is backed up and restored over the first.
        other.backup(tmp_path / "c.jsonl")
        store.restore(tmp_path / "c.jsonl", actor="bob", force=True)
        store.enqueue("news", {}, at=2.0)
        assert (len(store.pending("hook", now=9)), store.verify_audit().faults) == (3, [])

    def test_a_restore_is_no_way_back_for_a_token_that_was_revoked(
        self, store: ControlStore, other: ControlStore, tmp_path: Path
    ) -> None:
        self.fill(store)
        rights = Rights(roles=("predict",), endpoints=None, rate=None)
        for number in ("1", "2", "3"):
            store.issue_token(
                f"caller{number}", rights, token_id=number, sha256=f"s{number}", expires_at=None, actor="ann"
            )
        store.revoke_tokens(["1"], actor="ann")
        store.backup(tmp_path / "b.jsonl")
        store.revoke_tokens(["2"], actor="ann", reason="leaked")
        revoked = {token.id: token.revoked_at for token in store.tokens()}
        store.set_rights("caller3", Rights(roles=("feedback",), endpoints=("flights",), rate=1), actor="ann")
        store.issue_token("caller4", rights, token_id="4", sha256="s4", expires_at=None, actor="ann")

        restored = store.restore(tmp_path / "b.jsonl", actor="bob", force=True)
        assert (restored.kept_revocations, restored.restored_rights) == (("2",), ("caller3",))
        assert restored.num_unchecked_tokens == 0
        assert [grant.token_sha256 for grant in store.grants()] == ["s3"]
        assert {token.id: token.revoked_at for token in store.tokens()} == {key: revoked[key] for key in "123"}
        assert store.transitions()[-1].detail["kept_revocations"] == ["2"]
        assert store.verify_audit().faults == []

        # Where the store was lost nobody knows what was revoked since, and who restores is told so.
        lost = other.restore(tmp_path / "b.jsonl", actor="bob")
        assert (lost.kept_revocations, lost.num_unchecked_tokens) == ((), 2)
        assert lost.at == restored.at != ""

    def test_a_backup_under_load_is_of_one_moment(
        self, store: ControlStore, other: ControlStore, url: str, tmp_path: Path
    ) -> None:
        deploy_two(store)
        stop, writing = threading.Event(), threading.Event()

        def write() -> None:
            writer, share = ControlStore(url), 0
            while not stop.is_set():
                share = share % 9000 + 1
                writer.set_share("flights", share, actor="ann")
                writing.set()
            writer.close()

        thread = threading.Thread(target=write)
        thread.start()
        try:
            assert writing.wait(30)
            summary = store.backup(tmp_path / "b.jsonl")
        finally:
            stop.set()
            thread.join(30)
        assert summary.faults == []
        other.restore(tmp_path / "b.jsonl", actor="bob")
        assert other.verify_audit(summary.head).faults == []

    def test_a_store_that_holds_something_is_replaced_by_force_only(self, store: ControlStore, tmp_path: Path) -> None:
        self.fill(store)
        store.backup(tmp_path / "b.jsonl")
        store.set_share("flights", 900, actor="ann")
        lease = store.acquire_lease("later", "b", 10, now=100)
        assert lease is not None
        before = store.endpoint("flights")
        with pytest.raises(RefusedError, match=r"is not empty: .*5 transitions"):
            store.restore(tmp_path / "b.jsonl", actor="bob")
        assert store.endpoint("flights") == before
        store.restore(tmp_path / "b.jsonl", actor="bob", force=True)
        after = store.endpoint("flights")
        assert (after.share, after.generation) == (700, before.generation + RESTORE_STEP)
        assert store.verify_audit().faults == []
        assert store.transitions()[-1].detail["replaced_head"][0] == 5
        with pytest.raises(ConflictError):
            store.set_share("flights", 0, actor="old", fencing=lease.fencing)
        taken = store.acquire_lease("later", "c", 10, now=100)
        assert taken is not None
        assert taken.token > lease.token

    @pytest.mark.parametrize("damage", ["cut", "changed", "other", "counts", "chain", "newer", "row", "missing"])
    def test_a_restore_that_fails_leaves_the_old_store(self, store: ControlStore, tmp_path: Path, damage: str) -> None:
        self.fill(store)
        path = tmp_path / "b.jsonl"
        store.backup(path)
        before = (store.endpoint("flights"), store.transitions())
        lines = path.read_text().splitlines()
        entries: list[dict[str, Any]] = [json.loads(line) for line in lines]
        expected = spoil(damage, path, lines, entries)
        with pytest.raises(expected):
            store.restore(path, actor="bob", force=True)
        assert (store.endpoint("flights"), store.transitions()) == before
        assert store.verify_audit().faults == []

    def test_a_backup_of_an_older_revision_is_brought_up_to_date(
        self, store: ControlStore, other: ControlStore, tmp_path: Path
    ) -> None:
        deploy_two(store)
        path = tmp_path / "b.jsonl"
        store.backup(path)
        entries = [json.loads(line) for line in path.read_text().splitlines()]
        first = {"endpoints", "slots", "transitions", "model_versions", "data_versions", "aliases", "gates", "steps"}
        entries[0]["revision"] = "0001"
        entries[-1]["rows"] = {name: count for name, count in entries[-1]["rows"].items() if name in first}
        seal(path, entries)
        other.restore(path, actor="bob")
        assert other.endpoint("flights").green == store.endpoint("flights").green


def spoil(damage: str, path: Path, lines: list[str], entries: list[dict[str, Any]]) -> type[TealError]:
    """Write a damaged backup; returns what restoring it must raise."""
    if damage == "missing":
        path.unlink()
        return NotFoundError
    if damage == "cut":
        path.write_text("\n".join(lines[:-3]))
        return UsageError
    if damage == "changed":
        path.write_text(path.read_text().replace('"share":700', '"share":701'))
        return UsageError
    if damage == "other":
        path.write_text("not a backup")
        return UsageError
    if damage == "counts":
        entries[-1]["rows"]["slots"] += 1
        seal(path, entries)
        return UsageError
    if damage == "newer":
        entries[0]["revision"] = "9999"
        seal(path, entries)
        return RefusedError
    changed = next(entry for entry in entries if entry.get("table") == "transitions")
    if damage == "chain":
        changed["row"]["actor"] = "eve"
        seal(path, entries)
        return RefusedError
    changed["row"]["unknown"] = 1
    seal(path, entries)
    return TealError


def seal(path: Path, entries: list[dict[str, Any]]) -> None:
    """Write a backup whose hash is right, as one with access to the file could."""
    body = "".join(json.dumps(entry, ensure_ascii=False, separators=(",", ":")) + "\n" for entry in entries[:-1])
    entries[-1]["sha256"] = hashlib.sha256(body.encode()).hexdigest()
    path.write_text(body + json.dumps(entries[-1]) + "\n")
