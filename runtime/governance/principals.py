"""Principals and their tokens: what a token looks like, which names and rights are possible, what is issued.

A token is shown once, when it is made. Whoever has it is the principal; the store has its hash.
"""

import hashlib
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from runtime.core.errors import RefusedError, UsageError
from runtime.store.principals import ANONYMOUS, ROLES, Principal, Rights, Role, Token, describe

PREFIX = "teal"
SECRET_BYTES = 32
MAX_RATE = 1_000_000
DEFAULT_ROLES: tuple[Role, ...] = ("predict",)
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_ENDPOINT = re.compile(r"[A-Za-z0-9_-]+")
_DURATION = re.compile(r"([1-9][0-9]{0,5})([smhdw])")


@dataclass(frozen=True, kw_only=True, slots=True)
class IssuedToken:
    token: Token
    rights: Rights
    secret: str
    """The whole token, as a client sends it. It exists nowhere else."""


class PrincipalRows(Protocol):
    """What is needed of the control store."""

    def principal(self, name: str) -> Principal | None: ...

    def issue_token(
        self, principal: str, rights: Rights, *, token_id: str, sha256: str, expires_at: str | None, actor: str
    ) -> Token: ...

    def set_rights(self, principal: str, rights: Rights, *, actor: str) -> Principal: ...


def new_token() -> tuple[str, str]:
    """A token's id, by which people name it, and the token."""
    token_id = secrets.token_hex(6)
    return token_id, f"{PREFIX}_{token_id}_{secrets.token_urlsafe(SECRET_BYTES)}"


def token_sha256(token: str) -> str:
    """What the store keeps. A plain hash is enough: there are 256 random bits to guess, not a password."""
    return hashlib.sha256(token.encode()).hexdigest()


def issue_token(
    store: PrincipalRows,
    name: str,
    *,
    actor: str,
    roles: Sequence[str] = (),
    endpoints: Sequence[str] = (),
    rate: int | None = None,
    expires_in: timedelta | None = None,
) -> IssuedToken:
    """Make a token for a principal, who comes into being with the first one.

    What is not given is what the principal has; for a new one it is the role predict, all endpoints, no limit.
    RefusedError if something else is given than what the principal has: that would change its other tokens.
    """
    check_name(name)
    known = store.principal(name)
    rights = changed_rights(known, roles=roles, endpoints=endpoints, rate=rate)
    if known is not None and known.rights != rights:
        raise RefusedError(
            f"principal {name!r} has {describe(known.rights)}; change that for all its tokens with `teal token allow`, "
            "or take another name for other rights"
        )
    expires_at = None if expires_in is None else (datetime.now(UTC) + expires_in).isoformat(timespec="microseconds")
    token_id, secret = new_token()
    token = store.issue_token(
        name, rights, token_id=token_id, sha256=token_sha256(secret), expires_at=expires_at, actor=actor
    )
    return IssuedToken(token=token, rights=rights, secret=secret)


def allow(
    store: PrincipalRows,
    name: str,
    *,
    actor: str,
    roles: Sequence[str] = (),
    endpoints: Sequence[str] = (),
    rate: int | None = None,
) -> Principal:
    """Change what a principal may with all its tokens; what is not given stays. NotFoundError if there is none."""
    rights = changed_rights(store.principal(name), roles=roles, endpoints=endpoints, rate=rate)
    return store.set_rights(name, rights, actor=actor)


def changed_rights(
    known: Principal | None, *, roles: Sequence[str], endpoints: Sequence[str], rate: int | None
) -> Rights:
    """`endpoints`: names, or `all` alone. `rate`: 0 takes a limit away. UsageError names what is not possible."""
    before = Rights(roles=DEFAULT_ROLES, endpoints=None, rate=None) if known is None else known.rights
    return Rights(
        roles=_check_roles(roles) if roles else before.roles,
        endpoints=_check_endpoints(endpoints) if endpoints else before.endpoints,
        rate=before.rate if rate is None else _check_rate(rate),
    )


def check_name(name: str) -> None:
    """UsageError unless the name can stand in a header, a map and a log line as it is."""
    if not _NAME.fullmatch(name) or name == ANONYMOUS:
        raise UsageError(
            f"a principal's name must be 1..64 letters, digits and '._@-', begin with a letter or digit, and not be "
            f"{ANONYMOUS!r}, but got {name!r}"
        )


def parse_duration(text: str) -> timedelta:
    """`30d`, `12h`, `90m`, `45s`, `2w` as a duration. UsageError for anything else."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise UsageError(f"a duration is a number and one of s, m, h, d, w, such as 30d, but got {text!r}")
    arguments: Any = {UNITS[match[2]]: int(match[1])}
    duration = timedelta(**arguments)
    if duration > timedelta(days=3650):
        raise UsageError(f"a token may live ten years at most but got {text!r}; leave --expires out for no end")
    return duration


def _check_roles(roles: Sequence[str]) -> tuple[Role, ...]:
    for role in roles:
        if role not in ROLES:
            raise UsageError(f"a role is one of {', '.join(ROLES)} but got {role!r}")
    return tuple(role for role in ROLES if role in roles)


def _check_endpoints(endpoints: Sequence[str]) -> tuple[str, ...] | None:
    if list(endpoints) == ["all"]:
        return None
    for endpoint in endpoints:
        if not _ENDPOINT.fullmatch(endpoint) or endpoint == "all":
            raise UsageError(
                f"an endpoint is letters, digits, '-' and '_', and 'all' stands alone, but got {endpoint!r}"
            )
    return tuple(sorted(set(endpoints)))


def _check_rate(rate: int) -> int | None:
    if not 0 <= rate <= MAX_RATE:
        raise UsageError(f"a rate must be within 0..{MAX_RATE} requests a second but got {rate}; 0 is no limit")
    return rate or None
