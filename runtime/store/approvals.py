"""Approvals: one person asks, another decides, and both stand in the audit chain."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, insert, select, update

from runtime.core.clock import utc_now
from runtime.core.errors import ConflictError, NotFoundError, RefusedError, UsageError
from runtime.core.ids import new_id
from runtime.store import tables
from runtime.store.chain import AuditStore, append_transition
from runtime.store.database import retried
from runtime.store.records import Approval, ApprovalState


class ApprovalStore(AuditStore):
    """Nobody approves what they asked for."""

    @retried
    def request_approval(
        self, kind: str, subject: str, *, author: str, endpoint: str = "", detail: Mapping[str, Any] | None = None
    ) -> Approval:
        """Ask for a second person's word. Asking the same again gives the request that is pending already.

        `detail` is what the approver sees and the audit chain keeps. ConflictError if another request for the same
        subject is pending.
        """
        if not author.strip():
            raise UsageError(f"a request to approve {kind} {subject!r} needs an author")
        asked = dict(detail or {})
        with self._write() as connection:
            pending = next(iter(_read_approvals(connection, kind=kind, subject=subject, state="pending")), None)
            if pending is not None:
                if (pending.author, pending.detail) == (author, asked):
                    return pending
                raise ConflictError(
                    f"{kind} {subject!r} waits for approval already: {pending.id}, asked by {pending.author} at "
                    f"{pending.requested_at}; approve or deny that one first"
                )
            approval_id = new_id()
            values = dict(kind=kind, subject=subject, endpoint=endpoint, author=author, detail=asked)
            connection.execute(
                insert(tables.approvals).values(
                    id=approval_id, requested_at=utc_now(), state="pending", reason="", **values
                )
            )
            noted = {"approval": approval_id, "kind": kind, "subject": subject, "detail": asked}
            append_transition(connection, endpoint, actor=author, action="request_approval", detail=noted)
            return _read_approval(connection, approval_id)

    @retried
    def approve(self, approval_id: str, *, by: str, reason: str = "") -> Approval:
        """Say yes. RefusedError if `by` is the author; ConflictError if it was decided otherwise."""
        return self._decide(approval_id, "approved", by, reason)

    @retried
    def deny(self, approval_id: str, *, by: str, reason: str = "") -> Approval:
        """Say no, or take the own request back. ConflictError if it was decided otherwise."""
        return self._decide(approval_id, "denied", by, reason)

    def approval(self, approval_id: str) -> Approval:
        with self._read() as connection:
            return _read_approval(connection, approval_id)

    def approvals(
        self, *, kind: str | None = None, subject: str | None = None, state: ApprovalState | None = None
    ) -> list[Approval]:
        """Requests in order, those of a kind, of a subject, in a state."""
        with self._read() as connection:
            return _read_approvals(connection, kind=kind, subject=subject, state=state)

    def _decide(self, approval_id: str, state: ApprovalState, by: str, reason: str) -> Approval:
        if not by.strip():
            raise UsageError(f"a decision on approval {approval_id} needs a name")
        with self._write() as connection:
            found = _read_approval(connection, approval_id)
            # Principals that differ in case alone are one person on most systems that name people.
            if state == "approved" and by.strip().casefold() == found.author.strip().casefold():
                raise RefusedError(
                    f"{found.author} asked for {found.kind} {found.subject!r}; somebody else has to approve it"
                )
            if found.state != "pending":
                if (found.state, found.decided_by) == (state, by):
                    return found
                raise ConflictError(
                    f"approval {approval_id} was {found.state} by {found.decided_by} at {found.decided_at} already"
                )
            connection.execute(
                update(tables.approvals)
                .where(tables.approvals.c.id == approval_id)
                .values(state=state, decided_by=by, decided_at=utc_now(), reason=reason)
            )
            noted = {"approval": found.id, "kind": found.kind, "subject": found.subject, "reason": reason}
            action = "approve" if state == "approved" else "deny"
            append_transition(connection, found.endpoint, actor=by, action=action, detail=noted)
            return _read_approval(connection, approval_id)


def _read_approval(connection: Connection, approval_id: str) -> Approval:
    row = connection.execute(select(tables.approvals).where(tables.approvals.c.id == approval_id)).mappings().first()
    if row is None:
        raise NotFoundError(f"no approval {approval_id!r}; `teal approvals` lists them")
    return Approval(**row)


def _read_approvals(connection: Connection, **wanted: str | None) -> list[Approval]:
    table = tables.approvals
    query = select(table).order_by(table.c.requested_at, table.c.id)
    for name, value in wanted.items():
        if value is not None:
            query = query.where(table.c[name] == value)
    return [Approval(**row) for row in connection.execute(query).mappings()]
