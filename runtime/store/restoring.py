"""The store's own backup and restore: one snapshot out, one transaction in."""

from dataclasses import replace
from pathlib import Path

from sqlalchemy import Connection, Table, select, update

from runtime.core.errors import RefusedError, TealError
from runtime.store import backup, tables
from runtime.store.chain import append_transition, read_head
from runtime.store.database import upsert
from runtime.store.principals import principals, tokens
from runtime.store.records import BackupSummary, Head
from runtime.store.verification import VerifiableStore

RESTORE_STEP = 1000
"""How far generations and fencing tokens jump at a restore. Edges apply only higher generations, and those that they
have seen since the backup are not known where the store was lost."""


class RestorableStore(VerifiableStore):
    def backup(self, path: Path) -> BackupSummary:
        """Write one consistent moment of the store to a file, while others go on writing."""
        with self._read() as connection:
            return backup.dump(connection, path)

    def restore(self, path: Path, *, actor: str, force: bool = False) -> BackupSummary:
        """Replace everything by a backup, in one transaction: the backup's state or the old one, never a part.

        RefusedError if the store holds anything, unless forced, or if the backup's audit chain does not verify. The
        restore is itself in the chain, and every generation rises above what edges may have seen. What the replaced
        store knows to be revoked stays so: a restore is no way back for a token that leaked.
        """
        summary = backup.check(path)
        with backup.staged(path, summary) as source:
            self.create_schema()
            with self._write() as connection:
                kept = backup.kept_tables(connection)
                held = {name: count for name, count in backup.count_rows(connection, kept).items() if count}
                if held and not force:
                    shown = ", ".join(f"{count} {name}" for name, count in held.items())
                    raise RefusedError(f"control store {self.shown_url} is not empty: {shown}; --force replaces it")
                replaced = read_head(connection)
                generations = _numbers(connection, tables.endpoints, "generation")
                fencing = _numbers(connection, tables.leases, "token")
                known = _revocations(connection)
                rights = _rights(connection)
                backup.replace_rows(source, connection, kept)
                found = backup.count_rows(connection, kept)
                if found != backup.count_rows(source, kept):
                    raise TealError(f"{path} was not restored: the database holds {found} rows after the copy")
                summary = replace(
                    summary,
                    kept_revocations=_revoke_again(connection, known),
                    restored_rights=tuple(
                        name for name, own in _rights(connection).items() if rights.get(name, own) != own
                    ),
                    num_unchecked_tokens=len(_valid_tokens(connection) - known.keys()),
                )
                self._jump_generations(summary, generations, replaced, actor)
                self._jump_fencing(fencing)
                if faults := backup.audit_faults(connection):
                    raise TealError(f"{path} was not restored: {faults[0]}")
                self.retire_witness()
        return summary

    def _jump_generations(
        self, summary: BackupSummary, before: dict[str, int], replaced: Head | None, actor: str
    ) -> None:
        detail = {
            "backup_sha256": summary.sha256,
            "backup_head": None if summary.head is None else summary.head.sequence,
            "replaced_head": None if replaced is None else [replaced.sequence, replaced.hash],
            "kept_revocations": list(summary.kept_revocations),
        }
        table = tables.endpoints
        with self._write() as connection:
            restored = connection.execute(select(table.c.name, table.c.generation).order_by(table.c.name)).all()
            if not restored:
                append_transition(connection, "", actor=actor, action="restore", detail=detail)
            for row in restored:
                generation = max(row.generation, before.get(row.name, 0)) + RESTORE_STEP
                connection.execute(update(table).where(table.c.name == row.name).values(generation=generation))
                append_transition(
                    connection, row.name, actor=actor, action="restore", detail=detail, generation=generation
                )

    def _jump_fencing(self, before: dict[str, int]) -> None:
        """Void every lease: those who hold one take it anew, or find that they were replaced."""
        with self._write() as connection:
            restored = _numbers(connection, tables.leases, "token")
            for name in sorted(restored | before):
                token = max(restored.get(name, 0), before.get(name, 0)) + RESTORE_STEP
                upsert(connection, tables.leases, {"name": name}, {"holder": "", "token": token, "expires_at": 0.0})


def _revocations(connection: Connection) -> dict[str, str | None]:
    """Every token that is known, and when it was revoked."""
    return {row.id: row.revoked_at for row in connection.execute(select(tokens.c.id, tokens.c.revoked_at))}


def _revoke_again(connection: Connection, known: dict[str, str | None]) -> tuple[str, ...]:
    """Revoke those of the tokens that came back as valid; their ids."""
    revived = sorted(token for token in _valid_tokens(connection) if known.get(token) is not None)
    for token in revived:
        connection.execute(update(tokens).where(tokens.c.id == token).values(revoked_at=known[token]))
    return tuple(revived)


def _valid_tokens(connection: Connection) -> set[str]:
    return set(connection.execute(select(tokens.c.id).where(tokens.c.revoked_at.is_(None))).scalars())


def _rights(connection: Connection) -> dict[str, tuple[object, ...]]:
    query = select(principals.c.name, principals.c.roles, principals.c.endpoints, principals.c.rate)
    return {
        row.name: (row.roles, row.endpoints, row.rate) for row in connection.execute(query.order_by(principals.c.name))
    }


def _numbers(connection: Connection, table: Table, column: str) -> dict[str, int]:
    return {row[0]: row[1] for row in connection.execute(select(table.c["name"], table.c[column]))}
