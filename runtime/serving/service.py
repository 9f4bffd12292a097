"""One slot's HTTP service as a bare ASGI application. Knows nothing of Ray, and nothing of the split.

The way of a prediction has no framework, no task and no thread on it: parse, encode, infer, answer, on the event loop.
"""

import hmac
import logging
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import numpy as np

from runtime.data.contract import contract_to_json, feature_names
from runtime.models.bundle import Bundle
from runtime.serving import arrow
from runtime.serving.arrival import ArrivalClock
from runtime.serving.asgi import JSON_TYPE, Header, Receive, Reply, Request, Scope, Send
from runtime.serving.autoscaling import CallLoad
from runtime.serving.batching import MicroBatcher
from runtime.serving.codec import (
    RequestFault,
    encode_fault,
    encode_json,
    encode_predictions,
    parse_instances,
    parse_labels,
)
from runtime.serving.counters import Delta, Tally
from runtime.serving.delta_log import DeltaLog
from runtime.serving.explain import Explainer
from runtime.serving.oip import encode_oip_fault
from runtime.serving.oip_http import OipHttp
from runtime.serving.openapi import build_openapi
from runtime.serving.payload import Answer, Feedback
from runtime.serving.scoring import Call, Limits, Scorer, SlotIdentity
from runtime.serving.shadow import Shadow

__all__ = ["Limits", "SlotIdentity", "SlotService"]

logger = logging.getLogger(__name__)

MANY_BYTES = 2048
"""A shorter document is not looked at for many rows."""
PLAIN_JSON = (None, b"application/json")


class Route(NamedTuple):
    method: str
    handle: Callable[[Request], Awaitable[Reply]]
    is_prediction: bool = False


class SlotService:
    """ASGI application of one bundle in one slot."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        identity: SlotIdentity,
        limits: Limits,
        secret: str,
        payload: DeltaLog[Answer],
        feedback: DeltaLog[Feedback],
        payload_fraction: float = 1.0,
        max_batch_rows: int = 0,
        max_waiting_rows: int = 8192,
    ) -> None:
        """`max_batch_rows` above 0 runs the model in a thread of its own, on what gathered while it was busy."""
        self.identity = identity
        self.limits = limits
        self.scorer = Scorer(bundle, identity=identity, payload=payload, payload_fraction=payload_fraction)
        if max_batch_rows:
            self.scorer.batcher = MicroBatcher(
                self.scorer.compute, max_batch_rows=max_batch_rows, max_waiting_rows=max_waiting_rows
            )
        self.explainer = Explainer(bundle, self.scorer)
        self.tally = Tally()
        self.arrivals = ArrivalClock()
        self.grpc_load = CallLoad()
        self._bundle = bundle
        self._secret = secret.encode()
        self._payload = payload
        self._feedback = feedback
        self._taken_dropped = 0
        self._headers: tuple[Header, ...] = (
            (b"x-model-version", identity.model_label.encode()),
            (b"x-data-version", identity.data_version.encode()),
        )
        self._openapi = encode_json(build_openapi(identity, bundle.columns, limits))
        model_path = f"/v1/models/{identity.endpoint}"
        routes = {
            f"{model_path}:predict": Route("POST", self._predict, is_prediction=True),
            f"{model_path}:feedback": Route("POST", self._take_feedback),
            model_path: Route("GET", self._describe),
            "/v1/openapi.json": Route("GET", self._show_openapi),
            "/v2/health/ready": Route("GET", self._ready),
            "/v2/health/live": Route("GET", self._live),
        }
        self._oip_prefixes = ("/v2", f"/{identity.app}/v2")
        oip = OipHttp(self.scorer, self.explainer, limits)
        routes |= {path: Route(*route) for path, route in oip.routes().items()}
        # Serve hands the path over with the route's prefix on it.
        self._routes = {prefix + path: route for path, route in routes.items() for prefix in ("", f"/{identity.app}")}

    def warm_up(self) -> None:
        """Run the model a few times, so that the first request does not pay for what happens once."""
        self.scorer.warm_up()

    def take(self) -> Delta:
        """Counts since the last take. Call it on the event loop."""
        tally, self.tally = self.tally, Tally()
        dropped = self._payload.status()["dropped_rows"]
        dropped, self._taken_dropped = dropped - self._taken_dropped, dropped
        return Delta(
            requests=tally.requests,
            rows=tally.rows,
            errors=tally.errors,
            refused=tally.refused,
            latency_ms_counts=np.array(tally.latency_ms_counts, dtype=np.int64),
            counts=self.scorer.take_counts(),
            dropped_rows=dropped,
        )

    def follow(self, shadow: Shadow | None) -> None:
        """Have a share of the answered requests asked of the other slot too; None ends it."""
        self.scorer.shadow = shadow

    def is_from_edge(self, secret: bytes) -> bool:
        return hmac.compare_digest(secret, self._secret)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"a {scope['type']} connection is not served")
        at_ns = time.time_ns()
        started = time.perf_counter()
        headers = dict(scope["headers"])
        route = self._routes.get(scope["path"])
        arrived = headers.get(b"x-teal-arrived")
        waited_ns = 0 if arrived is None else self.arrivals.waited_ns(arrived, at_ns)
        request = Request(headers, scope.get("query_string", b""), receive, at_ns, waited_ns)
        reply = await self._reply(route, request, scope)
        answered = [*reply.headers, *self._headers, (b"content-length", b"%d" % len(reply.body))]
        await send({"type": "http.response.start", "status": reply.status, "headers": answered})
        await send({"type": "http.response.body", "body": reply.body})
        # Health checks come more often than requests may, and would hide how these do.
        if route is not None and route.is_prediction and b"x-teal-shadow" not in headers:
            self.tally.add(reply.status, reply.rows, (time.perf_counter() - started) * 1000)

    async def _reply(self, route: Route | None, request: Request, scope: Scope) -> Reply:
        # The protocol's clients read `error` as text and fail on anything else.
        encode = encode_oip_fault if scope["path"].startswith(self._oip_prefixes) else encode_fault
        try:
            if not hmac.compare_digest(request.headers.get(b"x-teal-edge", b""), self._secret):
                raise RequestFault(403, "forbidden", "requests must come through the edge")
            if route is None:
                raise RequestFault(404, "not_found", f"no such path: {scope['path'][:200]!r}")
            if scope["method"] != route.method:
                raise RequestFault(405, "method_not_allowed", f"use {route.method}")
            return await route.handle(request)
        except RequestFault as fault:
            if fault.status >= 500:
                self.log_failure(fault.code, scope["path"], *_origin(request), cause=fault.__cause__)
            return Reply(fault.status, encode(fault), (JSON_TYPE, *_fault_headers(fault, route)))
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets an answer and the log the trace
            self.log_failure("internal", scope["path"], *_origin(request), cause=error)
            return Reply(500, encode(_INTERNAL))

    async def _predict(self, request: Request) -> Reply:
        body = await request.read_body(self.limits.max_body_bytes)
        call = request.call()
        content_type = request.headers.get(b"content-type")
        if content_type is not None and content_type.startswith(arrow.CONTENT_TYPE):
            return await self._predict_arrow(body, call)
        question = None
        if len(body) >= MANY_BYTES and content_type in PLAIN_JSON:
            question = self.scorer.encode_document(body, max_rows=self.limits.max_rows)
        if question is None:
            question = self.scorer.encode_rows(parse_instances(body, content_type, max_rows=self.limits.max_rows))
        (prediction_id, scores), explained = await self.explainer.answer(question, call)
        return Reply(
            200,
            encode_predictions(prediction_id, self.identity.model_label, scores, explained),
            (JSON_TYPE, (b"x-prediction-id", prediction_id.encode())),
            len(scores),
        )

    async def _predict_arrow(self, body: bytes, call: Call) -> Reply:
        table = arrow.parse_table(body, max_rows=self.limits.max_rows)
        question = self.scorer.encode_table(table)
        (prediction_id, scores), explained = await self.explainer.answer(question, call)
        return Reply(
            200,
            arrow.encode_scores(prediction_id, self.identity.model_label, scores, explained),
            ((b"content-type", arrow.CONTENT_TYPE), (b"x-prediction-id", prediction_id.encode())),
            len(scores),
        )

    async def _take_feedback(self, request: Request) -> Reply:
        body = await request.read_body(self.limits.max_body_bytes)
        labels = parse_labels(body, request.headers.get(b"content-type"), max_rows=self.limits.max_rows)
        if not self._feedback.add(Feedback(labels=labels, received_ns=request.at_ns), len(labels)):
            raise RequestFault(503, "unavailable", "too many labels wait to be written; send them again later")
        return Reply(200, encode_json({"accepted": len(labels)}))

    async def _describe(self, _request: Request) -> Reply:
        contract = contract_to_json(self._bundle.columns)
        identity = self.identity
        description = {
            "endpoint": identity.endpoint,
            "slot": identity.slot,
            "model_version": identity.model_label,
            "data_version": identity.data_version,
            "columns": {name: contract[name] for name in feature_names(self._bundle.columns)},
        }
        return Reply(200, encode_json(description))

    async def _show_openapi(self, _request: Request) -> Reply:
        return Reply(200, self._openapi)

    async def _live(self, _request: Request) -> Reply:
        return Reply(200, b'{"live":true}')

    async def _ready(self, _request: Request) -> Reply:
        return Reply(200, encode_json({"ready": True, "pid": os.getpid(), **self.status()}))

    def status(self) -> dict[str, Any]:
        """What is counted of this slot's work behind the answers."""
        return {
            "model_version": self.identity.model_label,
            "bundle_sha256": self.identity.bundle_sha256,
            "payload": self._payload.status(),
            "feedback": self._feedback.status(),
            **self.scorer.status(),
        }

    def log_failure(
        self, code: str, path: str, request_id: str, traceparent: str, *, cause: BaseException | None
    ) -> None:
        fields = {
            "endpoint": self.identity.endpoint,
            "code": code,
            "path": path[:200],
            "request_id": request_id,
            "traceparent": traceparent,
            "slot": self.identity.slot,
            "model_version": self.identity.model_label,
        }
        logger.error("a request failed", extra=fields, exc_info=cause)


def _origin(request: Request) -> tuple[str, str]:
    """Request id and trace context."""
    headers = request.headers
    return headers.get(b"x-request-id", b"").decode("latin-1"), headers.get(b"traceparent", b"").decode("latin-1")


_INTERNAL = RequestFault(500, "internal", "the replica failed; its log says why")


def _fault_headers(fault: RequestFault, route: Route | None) -> tuple[Header, ...]:
    if fault.status == 405 and route is not None:
        return ((b"allow", route.method.encode()),)
    if fault.retry_after_s is not None:
        return ((b"retry-after", b"%d" % fault.retry_after_s),)
    return ()
