"""Who may use the edge: principals with their rights, and their tokens, of which only hashes are kept."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from sqlalchemy import JSON, Column, Connection, ForeignKey, Integer, Row, String, Table, insert, select, update

from runtime.core.clock import utc_now
from runtime.core.errors import ConflictError, NotFoundError
from runtime.store.chain import AuditStore, append_transition
from runtime.store.database import retried
from runtime.store.tables import metadata

Role = Literal["predict", "feedback", "operator", "admin"]
ROLES: tuple[Role, ...] = ("predict", "feedback", "operator", "admin")
ANONYMOUS = "anonymous"
"""Who sends no token, where none is asked for. Nobody's name."""

principals = Table(
    "principals",
    metadata,
    Column("name", String, primary_key=True),
    Column("roles", JSON, nullable=False),
    Column("endpoints", JSON(none_as_null=True)),
    Column("rate", Integer),
    Column("created_at", String, nullable=False),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", String, primary_key=True),
    Column("principal", String, ForeignKey("principals.name"), nullable=False, index=True),
    Column("sha256", String, nullable=False, unique=True),
    Column("created_at", String, nullable=False),
    Column("created_by", String, nullable=False),
    Column("expires_at", String),
    Column("revoked_at", String),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rights:
    roles: tuple[Role, ...]
    endpoints: tuple[str, ...] | None
    """None: all, those to come as well."""
    rate: int | None
    """Requests a second at one edge; None: no limit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Principal:
    name: str
    rights: Rights
    created_at: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Token:
    """What is kept of a token. The hash is not in it: nobody but an edge needs it."""

    id: str
    principal: str
    created_at: str
    created_by: str
    expires_at: str | None
    revoked_at: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Grant:
    """A token that was not revoked, and what its bearer may: what an edge needs to know."""

    token_sha256: str
    principal: str
    roles: tuple[Role, ...]
    endpoints: tuple[str, ...] | None
    rate: int | None
    expires_at: str | None


class PrincipalStore(AuditStore):
    """Every change is in the audit chain, with the rights that it gave and never with a token."""

    def principals(self) -> list[Principal]:
        with self._read() as connection:
            return [_principal(row) for row in connection.execute(select(principals).order_by(principals.c.name))]

    def principal(self, name: str) -> Principal | None:
        with self._read() as connection:
            return _find_principal(connection, name)

    def tokens(self, principal: str | None = None) -> list[Token]:
        """All that were ever issued, oldest first, of one principal or of all."""
        query = select(*(tokens.c[name] for name in Token.__slots__)).order_by(tokens.c.created_at, tokens.c.id)
        if principal is not None:
            query = query.where(tokens.c.principal == principal)
        with self._read() as connection:
            return [Token(**row) for row in connection.execute(query).mappings()]

    def grants(self) -> list[Grant]:
        """Of all tokens that were not revoked; those that have expired are among them."""
        query = (
            select(tokens.c.sha256, tokens.c.expires_at, principals)
            .join(principals, tokens.c.principal == principals.c.name)
            .where(tokens.c.revoked_at.is_(None))
            .order_by(tokens.c.sha256)
        )
        with self._read() as connection:
            return [
                Grant(
                    token_sha256=row.sha256,
                    principal=row.name,
                    roles=tuple(row.roles),
                    endpoints=None if row.endpoints is None else tuple(row.endpoints),
                    rate=row.rate,
                    expires_at=row.expires_at,
                )
                for row in connection.execute(query)
            ]

    @retried
    def issue_token(
        self, principal: str, rights: Rights, *, token_id: str, sha256: str, expires_at: str | None, actor: str
    ) -> Token:
        """Add a token, and the principal with these rights if there is none of that name.

        ConflictError if there is one with other rights: a new token must not change what the old ones may.
        """
        with self._write() as connection:
            known = _find_principal(connection, principal)
            if known is None:
                values = asdict(rights) | {"name": principal, "created_at": utc_now()}
                connection.execute(insert(principals).values(**values))
            elif known.rights != rights:
                raise ConflictError(
                    f"principal {principal!r} has other rights: {describe(known.rights)}, not {describe(rights)}; "
                    "change those of all its tokens with `teal token allow`, or leave the options out"
                )
            connection.execute(
                insert(tokens).values(
                    id=token_id,
                    principal=principal,
                    sha256=sha256,
                    created_at=utc_now(),
                    created_by=actor,
                    expires_at=expires_at,
                )
            )
            detail = {"principal": principal, "token": token_id, "expires_at": expires_at} | asdict(rights)
            append_transition(connection, "", actor=actor, action="create_token", detail=detail)
            return _read_token(connection, token_id)

    @retried
    def set_rights(self, principal: str, rights: Rights, *, actor: str) -> Principal:
        """Give a principal, and with it all its tokens, other rights. NotFoundError if there is none."""
        with self._write() as connection:
            known = _find_principal(connection, principal)
            if known is None:
                names = connection.execute(select(principals.c.name).order_by(principals.c.name)).scalars().all()
                raise NotFoundError(f"no principal {principal!r}; known: {', '.join(names) or 'none'}")
            if known.rights != rights:
                connection.execute(update(principals).where(principals.c.name == principal).values(**asdict(rights)))
                detail = {"principal": principal, "before": asdict(known.rights), "after": asdict(rights)}
                append_transition(connection, "", actor=actor, action="set_rights", detail=detail)
            return Principal(name=principal, rights=rights, created_at=known.created_at)

    @retried
    def revoke_tokens(self, token_ids: Iterable[str], *, actor: str, reason: str = "") -> list[Token]:
        """Void tokens for ever, all of them or none; one that is void already stays as it is.

        NotFoundError if one was never issued.
        """
        asked = list(dict.fromkeys(token_ids))
        with self._write() as connection:
            for token_id in asked:
                token = _read_token(connection, token_id)
                if token.revoked_at is None:
                    connection.execute(update(tokens).where(tokens.c.id == token_id).values(revoked_at=utc_now()))
                    detail = {"principal": token.principal, "token": token_id, "reason": reason}
                    append_transition(connection, "", actor=actor, action="revoke_token", detail=detail)
            return [_read_token(connection, token_id) for token_id in asked]


def describe(rights: Rights) -> str:
    endpoints = "all endpoints" if rights.endpoints is None else ", ".join(rights.endpoints)
    rate = "without a limit" if rights.rate is None else f"at most {rights.rate} requests a second"
    return f"{', '.join(rights.roles)} on {endpoints} {rate}"


def _find_principal(connection: Connection, name: str) -> Principal | None:
    row = connection.execute(select(principals).where(principals.c.name == name)).first()
    return None if row is None else _principal(row)


def _read_token(connection: Connection, token_id: str) -> Token:
    query = select(*(tokens.c[name] for name in Token.__slots__)).where(tokens.c.id == token_id)
    row = connection.execute(query).mappings().first()
    if row is None:
        raise NotFoundError(f"no token {token_id!r}; `teal token list` shows their ids")
    return Token(**row)


def _principal(row: Row[Any]) -> Principal:
    endpoints = None if row.endpoints is None else tuple(row.endpoints)
    rights = Rights(roles=tuple(row.roles), endpoints=endpoints, rate=row.rate)
    return Principal(name=row.name, rights=rights, created_at=row.created_at)
