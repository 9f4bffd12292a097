"""Commands about who may use the edge: tokens, rights, the certificate. They do not join Ray."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from runtime.cli.context import Output, read_config
from runtime.config.schema import Config
from runtime.core.clock import utc_now
from runtime.core.errors import RefusedError, UsageError
from runtime.governance import principals
from runtime.rollout import traffic
from runtime.serving.edge_files import EdgeFiles, touch_hint
from runtime.store.control import ControlStore
from runtime.store.principals import Principal, Rights, Token, describe

if TYPE_CHECKING:
    from runtime.serving.edge_tls import CertificateFacts

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Roles = Annotated[list[str] | None, typer.Option("--role", help="predict, feedback, operator or admin; repeatable.")]
Endpoints = Annotated[
    list[str] | None, typer.Option("--endpoint", "-e", help="Only this endpoint; repeatable; 'all' for every one.")
]
Rate = Annotated[int | None, typer.Option("--rate", help="Requests a second at one edge; 0 for no limit.")]


def register(app: typer.Typer) -> None:
    token = typer.Typer(help="Who may use the edge.", no_args_is_help=True)
    token.command("create")(create)
    token.command("list")(list_tokens)
    token.command("allow")(allow)
    token.command("revoke")(revoke)
    app.add_typer(token, name="token")
    app.command()(certificate)


def create(
    name: str,
    role: Roles = None,
    endpoint: Endpoints = None,
    rate: Rate = None,
    expires: Annotated[str | None, typer.Option("--expires", help="30d, 12h, ...; default: never.")] = None,
    is_json: Json = False,
) -> None:
    """Make a token for principal NAME and print it, this once. A new principal may predict, unless told otherwise."""
    expires_in = None if expires is None else principals.parse_duration(expires)
    config, store = _open()
    issued = principals.issue_token(
        store,
        name,
        actor=traffic.current_actor(),
        roles=role or (),
        endpoints=endpoint or (),
        rate=rate,
        expires_in=expires_in,
    )
    touch_hint(config.paths)
    note = f"{name}: {describe(issued.rights)}. The token is shown only now; its id is {issued.token.id}."
    if is_json:
        Output(is_json).show(issued, lambda: issued.secret)
        return
    # Alone on standard output and never wrapped, for $(teal token create ...).
    typer.echo(issued.secret)
    Console(stderr=True, highlight=False).print(Text(note, style="dim"))


def list_tokens(is_json: Json = False) -> None:
    """Every principal, what it may, and its tokens."""
    _, store = _open()
    known, tokens, now = store.principals(), store.tokens(), utc_now()
    data = {"principals": known, "tokens": [{"state": _state(token, now), "token": token} for token in tokens]}
    Output(is_json).show(data, lambda: _token_table(known, tokens, now))


def allow(name: str, role: Roles = None, endpoint: Endpoints = None, rate: Rate = None, is_json: Json = False) -> None:
    """Change what principal NAME may with all its tokens; what is not given stays."""
    if role is None and endpoint is None and rate is None:
        raise UsageError("give at least one of --role, --endpoint and --rate")
    config, store = _open()
    principal = principals.allow(
        store, name, actor=traffic.current_actor(), roles=role or (), endpoints=endpoint or (), rate=rate
    )
    touch_hint(config.paths)
    Output(is_json).show(principal, lambda: f"{name}: {describe(principal.rights)}")


def revoke(
    token_ids: Annotated[list[str] | None, typer.Argument(help="Ids of tokens, see `teal token list`.")] = None,
    principal: Annotated[str | None, typer.Option("--principal", help="All tokens of this principal.")] = None,
    reason: Annotated[str, typer.Option("--reason", help="Why; kept in the audit chain.")] = "",
    is_json: Json = False,
) -> None:
    """Void tokens for ever. Every edge that reaches the control store stops taking them within a second."""
    if bool(token_ids) == bool(principal):
        raise UsageError("give ids of tokens, or --principal NAME for all of one principal")
    config, store = _open()
    ids = token_ids or [token.id for token in store.tokens(principal)]
    if not ids:
        raise RefusedError(f"principal {principal!r} has no token; `teal token list` shows all")
    tokens = store.revoke_tokens(ids, actor=traffic.current_actor(), reason=reason)
    touch_hint(config.paths)
    Output(is_json).show(tokens, lambda: "\n".join(f"{token.id} of {token.principal} is void" for token in tokens))


def certificate(is_json: Json = False) -> None:
    """The certificate that the edge shows; one for development is made if TLS is on and none is configured."""
    config, _ = _open()
    if not config.edge.tls:
        raise RefusedError("the edge speaks no TLS; `teal up edge.tls=true` makes it")
    from runtime.serving.edge_tls import certificate_sources, read_certificate

    files = EdgeFiles.of(config.paths)
    facts = read_certificate(certificate_sources(config.edge, files)[0])
    to_trust = str(files.tls / "development.crt") if config.edge.certificate is None else facts.path
    data = {"facts": facts, "to_trust": to_trust}
    Output(is_json).show(data, lambda: _certificate_table(facts, to_trust))


def _open() -> tuple[Config, ControlStore]:
    config = read_config()
    store = ControlStore.of(config.paths)
    store.create_schema()
    return config, store


def _state(token: Token, now: str) -> str:
    if token.revoked_at is not None:
        return "revoked"
    return "expired" if token.expires_at is not None and token.expires_at <= now else "valid"


def _token_table(known: list[Principal], tokens: list[Token], now: str) -> Table:
    rights: dict[str, Rights] = {principal.name: principal.rights for principal in known}
    style = {"valid": "green", "expired": "yellow", "revoked": "red"}
    table = Table("principal", "may", "token", "state", "made", "by", "expires", box=None)
    previous = None
    for token in sorted(tokens, key=lambda token: (token.principal, token.created_at)):
        is_first = token.principal != previous
        previous = token.principal
        state = _state(token, now)
        table.add_row(
            token.principal if is_first else "",
            describe(rights[token.principal]) if is_first else "",
            token.id,
            Text(state, style=style[state]),
            token.created_at[:19],
            token.created_by,
            token.expires_at[:19] if token.expires_at else "never",
        )
    return table


def _certificate_table(facts: "CertificateFacts", to_trust: str) -> Table:
    table = Table(show_header=False, box=None)
    table.add_row("subject", facts.subject)
    table.add_row("valid until", f"{facts.not_after:%Y-%m-%d} ({facts.days_left(datetime.now(UTC)):.0f} days)")
    table.add_row("SHA-256", facts.sha256)
    table.add_row("signed by", "itself" if facts.signs_itself else "an authority")
    table.add_row("for clients to trust", to_trust)
    return table
