"""What the calls of one client share: where they go, as whom, how patiently. No input or output."""

from pathlib import Path
from typing import Any

from runtime.client.attempts import Attempts
from runtime.client.calls import Call, check_header, with_trace
from runtime.client.origin import build_ssl_context, parse_origin
from runtime.client.retry import NO_RETRIES, RetryBudget, RetryPolicy
from runtime.core.errors import UsageError
from runtime.core.ids import new_id

USER_AGENT = "teal-client"


class Session:
    def __init__(
        self,
        url: str,
        *,
        token: str | None,
        timeout_s: float,
        connect_timeout_s: float,
        retries: RetryPolicy | None,
        ca_file: str | Path | None,
        max_connections: int,
    ) -> None:
        for name, value in (("connect_timeout_s", connect_timeout_s), ("max_connections", max_connections)):
            if not value > 0:
                raise UsageError(f"{name} must be above 0 but got {value}")
        self.origin = parse_origin(url)
        self.ssl_context = build_ssl_context(self.origin, ca_file)
        self.connect_timeout_s = connect_timeout_s
        self.max_connections = max_connections
        self.headers = {"user-agent": USER_AGENT}
        if token is not None:
            if self.origin.scheme == "http" and not self.origin.is_loopback:
                raise UsageError(
                    f"a token must not go to {self.origin} in the clear: use https, or leave the token out"
                )
            self.headers["authorization"] = f"Bearer {check_header('token', token)}"
        self._timeout_s = timeout_s
        self._policy = NO_RETRIES if retries is None else retries
        self._budget = RetryBudget(self._policy)

    def attempts(
        self,
        call: Call[Any],
        *,
        timeout_s: float | None = None,
        request_id: str | None = None,
        traceparent: str | None = None,
        policy: RetryPolicy | None = None,
    ) -> Attempts:
        request = with_trace(call.request, request_id=request_id or new_id(), traceparent=traceparent)
        return Attempts(
            request,
            policy=policy or self._policy,
            budget=self._budget,
            timeout_s=self._timeout_s if timeout_s is None else timeout_s,
            rows=call.rows,
        )
