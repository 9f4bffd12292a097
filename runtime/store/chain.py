"""The audit chain in the database, and its witness: a note of the chain's end in a place of its own."""

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, insert, select

from runtime.config.schema import PathsConfig
from runtime.core.clock import utc_now
from runtime.core.files import write_atomic
from runtime.store import tables
from runtime.store.audit import GENESIS, chain_hash
from runtime.store.database import Database, retried
from runtime.store.outbox import enqueue
from runtime.store.records import Head, Transition

WITNESS_SUFFIX = ".head"
TRANSITION_TOPIC = "transition"


class AuditStore(Database):
    """The record of every change, in order.

    `witness` is a file outside the database that remembers the chain's end. Beside an embedded store it is made by
    itself; a server's store has one where the file is named.
    """

    def __init__(self, url: str, *, witness: Path | None = None) -> None:
        super().__init__(url)
        path = self.sqlite_path
        self.witness_path = path.with_name(path.name + WITNESS_SUFFIX) if witness is None and path else witness

    def transitions(self, endpoint: str | None = None) -> list[Transition]:
        """The audit chain in order, of one endpoint or of all."""
        with self._read() as connection:
            return read_transitions(connection, endpoint)

    def recent_transitions(self, since: str) -> list[Transition]:
        """The end of the audit chain from that time on, as `at` has it; found from the end, however long the chain."""
        columns = tables.transitions.c
        earlier = select(columns.sequence).where(columns.at < since).order_by(columns.sequence.desc()).limit(1)
        with self._read() as connection:
            last = connection.execute(earlier).scalar() or 0
            query = select(tables.transitions).where(columns.sequence > last).order_by(columns.sequence)
            return [Transition(**row) for row in connection.execute(query).mappings()]

    def head(self) -> Head | None:
        """The last row of the chain, None while it is empty."""
        with self._read() as connection:
            return read_head(connection)

    @retried
    def record_event(self, endpoint: str, *, actor: str, action: str, detail: Mapping[str, Any]) -> None:
        """Append a row that changes no state: a decision, a certificate's hash. `endpoint` may be empty."""
        with self._write() as connection:
            append_transition(connection, endpoint, actor=actor, action=action, detail=dict(detail))

    def read_witness(self) -> Head | None:
        """The end of the chain as this machine last saw it; None if there is no readable note."""
        if self.witness_path is None:
            return None
        try:
            noted = json.loads(self.witness_path.read_text())
            return Head(sequence=int(noted["sequence"]), hash=str(noted["hash"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def retire_witness(self) -> None:
        """Set the note aside, as what it tells of is about to be replaced by another chain. The old one is kept."""
        if self.witness_path is not None and self.witness_path.exists():
            self.witness_path.rename(f"{self.witness_path}.{utc_now()}")

    def _before_commit(self, connection: Connection) -> Any:
        return read_head(connection) if connection.info.pop("chain_grew", False) else None

    def _after_commit(self, noted: Any) -> None:
        self.note_head(noted)

    def note_head(self, head: Head | None) -> None:
        """Put the end of the chain into the witness, unless that knows of a later one."""
        if head is None or self.witness_path is None:
            return
        known = self.read_witness()
        if known is not None and known.sequence >= head.sequence:
            return
        try:
            write_atomic(self.witness_path, json.dumps(asdict(head) | {"at": utc_now()}), mode=0o600)
        except OSError as error:
            # The change stands; only a later removal of its row would go unseen.
            logging.getLogger(__name__).warning("cannot note the audit chain's end: %s", error)


def witness_for(paths: PathsConfig) -> Path | None:
    """Where this machine notes the end of a server's chain; None for an embedded store, which has its own place."""
    return None if paths.control.startswith("sqlite") else Path(paths.run) / "audit-head.json"


def read_transitions(connection: Connection, endpoint: str | None = None) -> list[Transition]:
    query = select(tables.transitions).order_by(tables.transitions.c.sequence)
    if endpoint is not None:
        query = query.where(tables.transitions.c.endpoint == endpoint)
    return [Transition(**row) for row in connection.execute(query).mappings()]


def read_head(connection: Connection) -> Head | None:
    columns = tables.transitions.c
    last = connection.execute(select(columns.sequence, columns.hash).order_by(columns.sequence.desc()).limit(1)).first()
    return None if last is None else Head(sequence=last.sequence, hash=last.hash)


def append_transition(
    connection: Connection,
    endpoint: str,
    *,
    actor: str,
    action: str,
    detail: dict[str, Any],
    generation: int | None = None,
    forced: bool = False,
) -> None:
    """Append a row within the open transaction. Without `generation` it is the endpoint's present one."""
    if generation is None:
        query = select(tables.endpoints.c.generation).where(tables.endpoints.c.name == endpoint)
        generation = connection.execute(query).scalar() or 0
    last = read_head(connection)
    row: dict[str, Any] = dict(
        sequence=1 if last is None else last.sequence + 1,
        at=utc_now(),
        endpoint=endpoint,
        generation=generation,
        actor=actor,
        action=action,
        forced=forced,
        detail=detail,
        previous_hash=GENESIS if last is None else last.hash,
    )
    row["hash"] = chain_hash(row)
    connection.execute(insert(tables.transitions).values(**row))
    connection.info["chain_grew"] = True
    enqueue(connection, TRANSITION_TOPIC, row, at=time.time())
