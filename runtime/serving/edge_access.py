"""The rules that every request at the edge passes, whatever its protocol: what it is called, who sends it, how often,
which slot gets it. Text out; each part takes the function that words a refusal.
"""

from collections.abc import Callable

from runtime.config.serving import EdgeConfig
from runtime.serving.edge_files import EdgeFiles
from runtime.store.principals import ANONYMOUS
from runtime.store.records import FULL_SHARE

LIMITS_TABLE = "edge-limits"
Refuse = Callable[..., str]
"""`edge_replies.reply` or one that takes the same."""


def render_identity() -> str:
    """Names for the request. What a client says of itself passes only if it has the right form, and says it once."""
    return """    http-request set-var(txn.uuid) uuid()
    http-request set-var(txn.request_id) var(txn.uuid)
    http-request set-var(txn.request_id) req.fhdr(x-request-id,1) if { req.fhdr(x-request-id,1) -m reg ^[A-Za-z0-9._:-]{1,128}$ }
    acl has_trace req.fhdr(traceparent,1) -m reg ^00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$
    acl has_one_trace req.fhdr_cnt(traceparent) 1
    http-request del-header tracestate if !has_trace || !has_one_trace
    http-request set-header traceparent 00-%[var(txn.uuid),regsub(-,,g)]-%[var(txn.uuid),bytes(24,12)]%[var(txn.uuid),bytes(0,4)]-00 if !has_trace || !has_one_trace
    http-request set-var(txn.trace) req.fhdr(traceparent)"""  # noqa: E501


def render_arrival(condition: str = "") -> str:
    """Says when the request came, by this machine's clock and therefore also whose that is. `condition`: of an ACL."""
    forged = f"    http-request del-header x-teal-arrived if !{condition}\n" if condition else ""
    only_if = f" if {condition}" if condition else ""
    return f"{forged}    http-request set-header x-teal-arrived %[hostname]/%[date(0,ms)]{only_if}"


def render_size_limits(edge: EdgeConfig, refuse: Refuse) -> str:
    url = refuse(
        414,
        "url_too_long",
        f"the URL is longer than {edge.max_url_bytes} bytes",
        f"if {{ url,length -m int gt {edge.max_url_bytes} }}",
    )
    headers = refuse(
        431,
        "headers_too_large",
        f"the headers are more than {edge.max_headers} or longer than {edge.max_header_bytes} bytes",
        f"if {{ req.hdrs,length -m int gt {edge.max_header_bytes} }} || "
        f"{{ req.fhdr_cnt -m int gt {edge.max_headers} }}",
    )
    return f"    http-request {url}\n    http-request {headers}"


def render_access(files: EdgeFiles, refuse: Refuse) -> str:
    """Sets txn.principal, txn.grant_key and txn.rights everywhere, or refuses. The token itself goes no further."""
    missing = refuse(
        401,
        "unauthorized",
        "this edge asks for a token; send it as authorization: Bearer TOKEN",
        f"if !{{ var(txn.grant) -m found }} {{ var(txn.grant_key) -m str {ANONYMOUS} }}",
        headers=" hdr www-authenticate Bearer",
    )
    unknown = refuse(
        401,
        "unauthorized",
        "the token is unknown, expired or revoked; `teal token create` makes one",
        "if !{ var(txn.grant) -m found }",
        headers=""" hdr www-authenticate 'Bearer error="invalid_token"'""",
    )
    too_many = refuse(
        429,
        "rate_limited",
        "more than %[var(txn.rate)] requests a second from %[var(txn.principal)]; repeat later",
        "if is_limited { var(txn.excess) -m int ge 0 }",
        headers=" hdr retry-after 1",
        formatted=True,
    )
    # Only what is let in counts, so that whoever sends twice too much still gets the rate and not nothing.
    return f"""    http-request set-var(txn.grant_key) str({ANONYMOUS}) if !{{ req.fhdr(authorization) -m found }}
    http-request set-var(txn.grant_key) http_auth_bearer,sha2(256),hex,lower if {{ req.fhdr(authorization) -m found }}
    http-request del-header authorization
    http-request set-var(txn.grant) var(txn.grant_key),map({files.grants})
    http-request {missing}
    http-request {unknown}
    http-request set-var(txn.principal) var(txn.grant),field(1,:)
    http-request set-var(txn.rate) var(txn.grant),field(2,:),add(0)
    http-request set-var(txn.rights) var(txn.grant),field(3,:)
    acl is_limited var(txn.rate) -m int gt 0
    http-request set-var(txn.limited) var(txn.principal) if is_limited
    http-request set-var-fmt(txn.limited) {ANONYMOUS}/%[src,ipmask(32,64)] if is_limited {{ var(txn.grant_key) -m str {ANONYMOUS} }}
    http-request track-sc0 var(txn.limited) table {LIMITS_TABLE} if is_limited
    http-request set-var(txn.excess) sc0_gpc0_rate,sub(txn.rate) if is_limited
    http-request {too_many}
    http-request sc-inc-gpc0(0) if is_limited"""  # noqa: E501


def render_limits_table() -> str:
    """The counters of one second, one a principal or a source address. Each edge has its own."""
    return f"""backend {LIMITS_TABLE}
    stick-table type string len 96 size 100k expire 10s store gpc0_rate(1s)
"""


def render_rights(files: EdgeFiles, refuse: Refuse, *, predicts: str, gives_feedback: str) -> str:
    """Narrows txn.rights to those on txn.endpoint, and refuses what is not among them. Takes two ACLs' conditions."""
    who = "%[var(txn.principal)] has no right"
    nothing = refuse(403, "forbidden", f"{who} on this endpoint", "if { var(txn.rights) -m str none }", formatted=True)
    predict = refuse(
        403,
        "forbidden",
        f"{who} to predict on this endpoint",
        f"if {predicts} !{{ var(txn.rights) -m sub ,predict, }}",
        formatted=True,
    )
    rules = f"""    http-request set-var-fmt(txn.scope) %[var(txn.grant_key)]/%[var(txn.endpoint)] if {{ var(txn.rights) -m str none }}
    http-request set-var(txn.rights) var(txn.scope),map({files.grants},none) if {{ var(txn.scope) -m found }}
    http-request {nothing}
    http-request {predict}"""  # noqa: E501
    if not gives_feedback:
        return rules
    feedback = refuse(
        403,
        "forbidden",
        f"{who} to give feedback on this endpoint",
        f"if {gives_feedback} !{{ var(txn.rights) -m sub ,feedback, }}",
        formatted=True,
    )
    return f"{rules}\n    http-request {feedback}"


def render_split(refuse: Refuse) -> str:
    """Sets txn.slot, txn.generation and txn.app from txn.state, the share map's entry."""
    no_slot = refuse(
        400,
        "bad_request",
        "x-slot must be blue or green",
        "if may_choose !{ var(txn.choice) -m str blue green }",
    )
    empty_slot = refuse(
        404,
        "not_found",
        "slot %[var(txn.slot)] of this endpoint holds no model",
        "if may_choose !{ var(txn.app),nbsrv -m int gt 0 }",
        formatted=True,
    )
    # xxh32, since mod() of the signed xxh64 sends half of the keys below zero.
    return f"""    http-request set-var(txn.choice) req.fhdr(x-slot) if {{ req.fhdr(x-slot) -m found }} {{ var(txn.rights) -m sub ,slot, }}
    acl may_choose var(txn.choice) -m found
    http-request set-var(txn.share) var(txn.state),field(1,:),add(0)
    http-request set-var(txn.generation) var(txn.state),field(2,:)
    http-request set-var(txn.key) var(txn.uuid)
    http-request set-var(txn.key) req.fhdr(x-routing-key) if {{ req.fhdr(x-routing-key) -m found }}
    http-request set-var(txn.sticky) req.fhdr(x-routing-key),xxh32 if {{ req.fhdr(x-routing-key) -m found }}
    http-request set-var(txn.distance) var(txn.key),xxh32,mod({FULL_SHARE}),sub(txn.share)
    http-request set-var(txn.slot) str(blue)
    http-request set-var(txn.slot) str(green) if {{ var(txn.distance) -m int lt 0 }}
    http-request {no_slot}
    http-request set-var(txn.slot) var(txn.choice) if may_choose
    http-request set-var-fmt(txn.app) %[var(txn.endpoint)]-%[var(txn.slot)]
    http-request {empty_slot}"""  # noqa: E501


def render_request_headers(secret: str) -> str:
    """What a replica is told. Setting a header removes every one of that name which the client sent."""
    return f"""    http-request set-header x-teal-edge {secret}
    http-request set-header x-slot %[var(txn.slot)]
    http-request set-header x-generation %[var(txn.generation)]
    http-request set-header x-principal %[var(txn.principal)]
    http-request set-header x-request-id %[var(txn.request_id)]
    # Spares the replica one task a request; an answer takes milliseconds, so nobody waits to cancel it.
    http-request set-header x-request-disconnect-disabled ?1
    http-request del-header x-request-timeout-seconds
    # A request in the shadow is neither logged nor counted: only a replica may send one.
    http-request del-header x-teal-shadow"""


def render_answer_headers() -> str:
    return """    http-after-response set-header x-request-id %[var(txn.request_id)] if { var(txn.request_id) -m found }
    http-after-response set-header traceparent %[var(txn.trace)] if { var(txn.trace) -m found }
    http-after-response set-header x-slot %[var(txn.slot)] if { var(txn.slot) -m found }
    http-after-response set-header x-generation %[var(txn.generation)] if { var(txn.generation) -m found }"""


def render_access_log(edge: EdgeConfig) -> str:
    """One JSON line a logged request, or nothing."""
    if edge.access_log is None:
        return ""
    quoted = {
        "request_id": "var(txn.request_id)",
        "principal": "var(txn.principal)",
        "method": "var(txn.method)",
        "path": "var(txn.path),json(utf8s)",
        "endpoint": "var(txn.endpoint),json(utf8s)",
        "slot": "var(txn.slot)",
    }
    texts = ",".join(f'"{name}":"%[{expression}]"' for name, expression in quoted.items())
    line = f'{{"at":%Ts.%ms,{texts},"server":"%s","status":%ST,"ms":%Ta,"bytes_in":%U,"bytes_out":%B}}'
    return f"""    log {edge.access_log} format raw sample 1:{edge.access_log_sample} local0 info
    log-format '{line}'
    http-request set-var(txn.method) method
    http-request set-var(txn.path) path
"""
