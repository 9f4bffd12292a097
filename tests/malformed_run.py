"""Asks an edge thousands of malformed requests by all protocols, valid ones in between, and says what was wrong."""

import http.client
import json
import socket
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from random import Random
from typing import Any

import grpc

from tests.malformed_grpc import Call, malformed_call, valid_message
from tests.malformed_http import ARROW, COLUMNS, JSON, OCTETS, ROWS, Ask, framed, malformed_request
from tests.malformed_oracle import Oracle
from tests.serving_protocols import arrow_stream, as_table, oip_binary, oip_json, row_json
from tests.serving_slot import INFER, PREDICT, Slot

NUM_HTTP, NUM_GRPC = 6, 3
GRPC_PART = 0.2
VALID_EACH = 50
"""After so many malformed requests of a caller comes a valid one."""
KEPT_FAULTS = 40
ANSWER_TIMEOUT_S = 15.0
SERVERS_FAULT = (
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DATA_LOSS,
)
INFER_CALL = "/inference.GRPCInferenceService/ModelInfer"


@dataclass(kw_only=True, slots=True)
class Outcome:
    """What came of it. Faults are texts that begin with what was wrong."""

    num_asked: int = 0
    num_valid: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    """`KIND STATUS`."""
    faults: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, kind: str, status: str, fault: str | None, sent: bytes) -> None:
        with self.lock:
            self.num_asked += 1
            self.statuses[f"{kind} {status}"] += 1
        if fault is not None:
            self.note_fault(fault, kind, status, sent)

    def note_fault(self, fault: str, kind: str, status: str, sent: bytes) -> None:
        with self.lock:
            self.faults[fault.partition(":")[0]] += 1
            if len(self.examples) < KEPT_FAULTS:
                self.examples.append(f"{fault} | {kind} | {status} | {sent[:1500]!r}")


def ask_malformed(slot: Slot, number: int, *, seed: int, progress: Callable[[int], None] = lambda _: None) -> Outcome:
    """The same requests for the same seed and number, in an order that differs."""
    outcome = Outcome()
    oracle = Oracle(slot.bundle)
    num_grpc = round(number * GRPC_PART)
    shares = [(_ask_http, (number - num_grpc) // NUM_HTTP + 1)] * NUM_HTTP + [
        (_ask_grpc, num_grpc // NUM_GRPC + 1)
    ] * NUM_GRPC
    with ThreadPoolExecutor(len(shares)) as pool:
        callers = [
            pool.submit(ask, slot, oracle, outcome, Random(seed * 1000 + index), share, progress)
            for index, (ask, share) in enumerate(shares)
        ]
        for caller in callers:
            caller.result()
    return outcome


def _ask_http(
    slot: Slot, oracle: Oracle, outcome: Outcome, random: Random, number: int, progress: Callable[[int], None]
) -> None:
    expected = oracle.scores(list(ROWS))
    body, given = oip_binary(ROWS, COLUMNS)
    length = {"inference-header-content-length": given["inference_header_content_length"]}
    valid = (
        framed("valid", PREDICT, {"content-type": JSON}, row_json(ROWS)),
        framed("valid", PREDICT, {"content-type": ARROW}, arrow_stream(as_table(ROWS, COLUMNS))),
        framed("valid", INFER, {"content-type": JSON}, oip_json(ROWS, COLUMNS)),
        framed("valid", INFER, {"content-type": OCTETS} | length, body),
    )
    caller = _HttpCaller(slot)
    for index in range(number):
        ask = malformed_request(random)
        status, headers, answer = caller.send(ask)
        outcome.note(ask.kind, str(status), _judge_http(oracle, ask, status, headers, answer), ask.content)
        if index % VALID_EACH == 0:
            ask = valid[index // VALID_EACH % len(valid)]
            status, headers, answer = caller.send(ask)
            if status != 200 or (why := oracle.explain_http(ask, answer, headers)) is not None:
                outcome.note_fault(
                    "a valid request failed", ask.path, f"{status} {why if status == 200 else answer!r}", b""
                )
            with outcome.lock:
                outcome.num_valid += 1
            progress(outcome.num_asked)
    assert len(expected) == len(ROWS)
    caller.close()


class _HttpCaller:
    """One caller's connection, made again whenever it was closed."""

    def __init__(self, slot: Slot) -> None:
        self._address = (slot.host, slot.port)
        self._socket: socket.socket | None = None

    def send(self, ask: Ask) -> tuple[int, dict[str, str], bytes]:
        """Status 0 where the connection was closed without an answer, -1 where none came in time."""
        if not ask.is_framed:
            return self._send_alone(ask)
        for _ in range(2):
            is_fresh = self._socket is None
            if self._socket is None:
                self._socket = socket.create_connection(self._address, timeout=ANSWER_TIMEOUT_S)
            status, headers, answer, is_closing = _exchange(self._socket, ask.content, _method(ask))
            if is_closing:
                self.close()
            # A connection that was idle may have been closed by the other side, which is no answer to this request.
            if status or is_fresh:
                break
        return status, headers, answer

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send_alone(self, ask: Ask) -> tuple[int, dict[str, str], bytes]:
        with socket.create_connection(self._address, timeout=ANSWER_TIMEOUT_S) as connection:
            return _exchange(connection, ask.content, _method(ask), is_all=True)[:3]


def _exchange(
    connection: socket.socket, content: bytes, method: str, *, is_all: bool = False
) -> tuple[int, dict[str, str], bytes, bool]:
    try:
        connection.sendall(content)
        if is_all:
            connection.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # refused while it was still being sent; the answer may be there all the same
    response = http.client.HTTPResponse(connection, method=method)
    try:
        response.begin()
        body = response.read()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return response.status, headers, body, response.will_close
    except TimeoutError:
        return -1, {}, b"", True
    except (OSError, http.client.HTTPException, ValueError):
        return 0, {}, b"", True
    finally:
        response.close()


def _method(ask: Ask) -> str:
    return "HEAD" if ask.content.startswith(b"HEAD") else "POST"


def _judge_http(oracle: Oracle, ask: Ask, status: int, headers: dict[str, str], answer: bytes) -> str | None:
    """What is wrong with an answer, None if nothing is."""
    if status == -1:
        return "no answer in time"
    if status == 0:
        return "no answer" if ask.is_framed else None
    if status >= 500:
        return f"server's fault {status}: {answer[:200]!r}"
    if status == 200:
        if ask.kind in ("framing", "path or method"):
            return None  # what was asked after all, nobody here knows
        if (ask.headers or {}).get("explain") or "explain" in ask.path:
            return None
        return oracle.explain_http(ask, answer, headers)
    if not ask.content.startswith(b"HEAD") and not _has_form(ask, status, headers, answer):
        return f"an error without the form {status}: {answer[:200]!r}"
    return None


def _has_form(ask: Ask, status: int, headers: dict[str, str], answer: bytes) -> bool:
    if "x-request-id" not in headers and answer.startswith(b"<html>"):
        return True  # no HTTP, by HAProxy's own page
    if not headers.get("content-type", "").startswith(JSON):
        return False
    try:
        error = json.loads(answer)["error"]
    except (ValueError, KeyError, TypeError):
        return False
    if not ask.is_framed:
        return type(error) in (str, dict)
    return type(error) is (str if ask.path.startswith("/v2") else dict)


def _ask_grpc(
    slot: Slot, oracle: Oracle, outcome: Outcome, random: Random, number: int, progress: Callable[[int], None]
) -> None:
    valid = Call("valid", "ModelInfer", valid_message().SerializeToString(), ())
    options = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))
    with grpc.insecure_channel(f"{slot.host}:{slot.grpc_port}", options=options) as channel:
        for index in range(number):
            call = malformed_call(random)
            code, answer = _call(channel, call)
            fault = None
            if code in SERVERS_FAULT:
                fault = f"server's fault {code.name}: {answer!r}"
            elif code is grpc.StatusCode.DEADLINE_EXCEEDED and not any(k == "x-timeout-ms" for k, _ in call.metadata):
                fault = "no answer in time"
            elif code is grpc.StatusCode.OK and call.method == "ModelInfer" and isinstance(answer, bytes):
                fault = oracle.explain_grpc(call.message, answer)
            outcome.note(call.kind, code.name, fault, call.method.encode() + b" " + call.message)
            if index % VALID_EACH == 0:
                code, answer = _call(channel, valid)
                why = oracle.explain_grpc(valid.message, answer) if isinstance(answer, bytes) else answer
                if code is not grpc.StatusCode.OK or why is not None:
                    outcome.note_fault("a valid request failed", "grpc", f"{code.name} {why}", b"")
                with outcome.lock:
                    outcome.num_valid += 1
                progress(outcome.num_asked)


def _call(channel: Any, call: Call) -> tuple[grpc.StatusCode, bytes | str]:
    ask = channel.unary_unary(f"/inference.GRPCInferenceService/{call.method}")
    try:
        return grpc.StatusCode.OK, ask(
            call.message, metadata=call.metadata, timeout=ANSWER_TIMEOUT_S, compression=call.compression
        )
    except grpc.RpcError as error:
        return error.code(), str(error.details())
    except ValueError:
        return grpc.StatusCode.INVALID_ARGUMENT, "the client itself refuses this metadata"
