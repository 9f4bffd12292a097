"""Both clients against a server that resets, stalls, cuts off, limits and lies: they do the same, and end in time."""

import asyncio
import ipaddress
import socket
import ssl
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from runtime.client import (
    AsyncClient,
    BadRequest,
    Client,
    ContractViolated,
    DeadlineExceeded,
    InvalidAnswer,
    Label,
    RetryPolicy,
    TooManyRequests,
    Unavailable,
)
from runtime.core.errors import UsageError
from tests.misbehaving_server import MisbehavingServer, answer, drip, hang_up, refusal, reset, silence, words

SCORES = {"prediction_id": "p", "model_version": "m:1", "predictions": [{"score": 0.25}]}
GOOD = answer(200, SCORES, x_slot="blue", x_generation="3")
BUSY = refusal(429, "too_many_requests", "wait", retry_after="0")
AWAY = refusal(503, "unavailable", "no replica", retry_after="0")
CUT = words(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{")
TOKEN = "never-to-be-shown"
QUICK = RetryPolicy(base_s=0.001, cap_s=0.002)
ROWS = [{"x": 1}]

Ask = Callable[..., Any]
"""A method's name and its arguments: the call of whichever client is under test."""


class Asker:
    """One client of either kind behind blocking calls."""

    def __init__(self, kind: Literal["blocking", "async"], url: str, **options: Any) -> None:
        options = {"retries": QUICK, "timeout_s": 10.0, **options}
        self._runner = asyncio.Runner()
        make: Any = Client if kind == "blocking" else AsyncClient
        self._client = make(url, **options)

    def __call__(self, method: str, *arguments: Any, **options: Any) -> Any:
        result = getattr(self._client, method)(*arguments, **options)
        return self._runner.run(_wait(result)) if asyncio.iscoroutine(result) else result

    def close(self) -> None:
        self("close")
        self._runner.close()


async def _wait(awaitable: Any) -> Any:
    return await awaitable


@pytest.fixture(params=["blocking", "async"])
def connect(request: pytest.FixtureRequest) -> Iterator[Callable[..., Asker]]:
    askers: list[Asker] = []

    def make(url: str, **options: Any) -> Asker:
        askers.append(Asker(request.param, url, **options))
        return askers[-1]

    yield make
    for asker in askers:
        asker.close()


Connect = Callable[..., Asker]


def test_a_prediction_over_one_kept_connection(connect: Connect) -> None:
    with MisbehavingServer(GOOD) as server:
        ask = connect(f"{server.url}/base", token="secret")
        for _ in range(3):
            prediction = ask("predict", "e", ROWS, routing_key="klé", traceparent=f"00-{'a' * 32}-{'b' * 16}-01")
    assert (prediction.scores.tolist(), prediction.slot, prediction.generation) == ([0.25], "blue", 3)
    first = server.seen[0]
    assert (first.method, first.path, first.body) == ("POST", "/base/v1/models/e:predict", b'{"instances":[{"x":1}]}')
    assert first.headers["authorization"] == "Bearer secret"
    assert first.headers["x-routing-key"] == "klé"
    assert first.headers["traceparent"] == f"00-{'a' * 32}-{'b' * 16}-01"
    assert first.headers["content-type"] == "application/json"
    assert 9000 < int(first.headers["x-timeout-ms"]) <= 10_000
    assert {seen.connection for seen in server.seen} == {0}
    assert len({seen.headers["x-request-id"] for seen in server.seen}) == 3


@pytest.mark.parametrize("fault", [reset, hang_up, CUT, BUSY, AWAY], ids=["reset", "empty", "cut", "429", "503"])
def test_what_passes_is_tried_again_under_the_same_id(connect: Connect, fault: Any) -> None:
    with MisbehavingServer(fault, fault, GOOD) as server:
        assert connect(server.url)("predict", "e", ROWS).scores.tolist() == [0.25]
    assert len(server.seen) == 3
    assert len({seen.headers["x-request-id"] for seen in server.seen}) == 1
    timeouts = [int(seen.headers["x-timeout-ms"]) for seen in server.seen]
    assert all(later <= earlier for earlier, later in pairwise(timeouts))


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        (reset, Unavailable, "ended before the answer was whole"),
        (hang_up, Unavailable, "ended before the answer was whole"),
        (CUT, Unavailable, "ended before the answer was whole"),
        (AWAY, Unavailable, "no replica"),
        (BUSY, TooManyRequests, "wait"),
    ],
    ids=["reset", "empty", "cut", "503", "429"],
)
def test_what_does_not_pass_ends_after_the_last_attempt(connect: Connect, fault: Any, kind: Any, words: str) -> None:
    with MisbehavingServer(fault) as server, pytest.raises(kind, match=words) as caught:
        connect(server.url)("predict", "e", ROWS, request_id="mine")
    assert len(server.seen) == caught.value.num_attempts == 4
    assert caught.value.request_id == "mine"


@pytest.mark.parametrize(
    "fault",
    [
        refusal(400, "malformed", "no"),
        refusal(401, "unauthenticated", "no"),
        refusal(403, "forbidden", "no"),
        refusal(404, "not_found", "no"),
        refusal(413, "too_large", "no"),
        refusal(422, "contract", "no", "x"),
        refusal(429, "too_many_requests", "no"),
        refusal(500, "internal", "no"),
        answer(302, b"", location="http://127.0.0.1:1/"),
    ],
    ids=["400", "401", "403", "404", "413", "422", "429 without end", "500", "302"],
)
def test_what_would_fail_again_is_asked_once(connect: Connect, fault: Any) -> None:
    with MisbehavingServer(fault) as server, pytest.raises(Exception) as caught:  # noqa: PT011 - kinds: test_client_attempts
        connect(server.url)("predict", "e", ROWS)
    assert type(caught.value).__module__ == "runtime.client.errors"
    assert len(server.seen) == 1


def test_a_broken_contract_names_column_and_value(connect: Connect) -> None:
    with (
        MisbehavingServer(refusal(422, "contract", "instances: row 0, column 'x': must be text", "x")) as server,
        pytest.raises(ContractViolated, match="must be text") as caught,
    ):
        connect(server.url)("predict", "e", ROWS)
    assert (caught.value.column, caught.value.value, caught.value.status) == ("x", 1, 422)


@pytest.mark.parametrize(
    "content",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\ncontent-length: 0\r\n\r\n",
        b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{"predictions": [',
        b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n<html>",
        b"HTTP/1.1 200 OK\r\n\r\n[]",
    ],
    ids=["other protocol", "wrong status", "cut without a length", "HTML", "other JSON"],
)
def test_what_is_no_answer_is_not_believed(connect: Connect, content: bytes) -> None:
    with MisbehavingServer(words(content)) as server, pytest.raises(InvalidAnswer) as caught:
        connect(server.url, token=TOKEN)("predict", "e", ROWS)
    assert len(server.seen) == caught.value.num_attempts == 1
    assert TOKEN not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "step",
    [silence, drip(b"HTTP/1.1 200 OK\r\n"), drip(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")],
    ids=["silent", "slow headers", "slow body"],
)
def test_the_deadline_holds_however_slowly_bytes_come(connect: Connect, step: Any) -> None:
    with MisbehavingServer(step) as server, pytest.raises(DeadlineExceeded, match=r"within 0\.15 s and 1 attempts"):
        connect(server.url)("predict", "e", ROWS, timeout_s=0.15)
    assert len(server.seen) == 1


def test_a_late_connection_is_not_used_again(connect: Connect) -> None:
    with MisbehavingServer(drip(b"HTTP/1.1 200 OK\r\n"), GOOD) as server:
        ask = connect(server.url)
        with pytest.raises(DeadlineExceeded):
            ask("predict", "e", ROWS, timeout_s=0.15)
        assert ask("predict", "e", ROWS).scores.tolist() == [0.25]
    assert [seen.connection for seen in server.seen] == [0, 1]


def test_a_connection_that_the_server_closed_while_idle_costs_no_call(connect: Connect) -> None:
    with MisbehavingServer(answer(200, SCORES, is_kept=False)) as server:
        ask = connect(server.url)
        for _ in range(4):
            ask("predict", "e", ROWS)
    assert len(server.seen) == 4


def test_an_answer_to_a_large_body_that_was_not_read_is_read(connect: Connect) -> None:
    """As from a server that refuses by the header alone: here it closes after 413 with most of the body unread."""

    def refuse_unread(listener: Any) -> None:
        connection, _ = listener.accept()
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 413 X\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")
        connection.shutdown(1)
        while connection.recv(1 << 20):
            pass
        connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=refuse_unread, args=(listener,), daemon=True)
        thread.start()
        with pytest.raises(BadRequest, match="HTTP 413"):
            connect(f"http://127.0.0.1:{listener.getsockname()[1]}")("predict", "e", [{"x": "y" * (3 << 20)}])
        thread.join(10)


def test_nobody_there_is_unavailable(connect: Connect) -> None:
    with MisbehavingServer(GOOD) as server:
        pass
    ask = connect(server.url)
    with pytest.raises(Unavailable, match="nobody can be reached") as caught:
        ask("predict", "e", ROWS)
    assert caught.value.num_attempts == 4
    assert ask("ready") is False


def test_readiness_is_asked_once(connect: Connect) -> None:
    with MisbehavingServer(answer(503, {"ready": False}), answer(200, {"ready": True})) as server:
        ask = connect(server.url)
        assert (ask("ready"), ask("ready")) == (False, True)
    assert [seen.path for seen in server.seen] == ["/v2/health/ready"] * 2


def test_feedback_and_description(connect: Connect) -> None:
    described = {"endpoint": "e", "slot": "blue", "model_version": "m:1", "data_version": "d@0", "columns": {"x": {}}}
    with MisbehavingServer(hang_up, answer(200, {"accepted": 1}), answer(200, described)) as server:
        ask = connect(server.url)
        assert ask("feedback", "e", [Label(prediction_id="p", label=1)]) == 1
        assert ask("describe", "e").columns == {"x": {}}
    assert server.seen[1].body == b'{"labels":[{"prediction_id":"p","label":1,"row":0}]}'
    assert (server.seen[2].method, server.seen[2].path) == ("GET", "/v1/models/e")


def test_a_failing_server_meets_a_tenth_more_load_at_most(connect: Connect) -> None:
    with MisbehavingServer(AWAY) as server:
        ask = connect(server.url, retries=RetryPolicy(base_s=0, cap_s=0, budget=0.1, reserve=3))
        for _ in range(60):
            with pytest.raises(Unavailable):
                ask("predict", "e", ROWS)
    assert 60 + 3 + 5 <= len(server.seen) <= 60 + 3 + 6


def test_retries_can_be_turned_off(connect: Connect) -> None:
    with MisbehavingServer(AWAY, GOOD) as server, pytest.raises(Unavailable):
        connect(server.url, retries=None)("predict", "e", ROWS)
    assert len(server.seen) == 1


def test_a_wrong_argument_sends_nothing(connect: Connect) -> None:
    with MisbehavingServer(GOOD) as server:
        ask = connect(server.url)
        for arguments, options in [(("a/b", ROWS), {}), (("e", "rows"), {}), (("e", ROWS), {"timeout_s": 0})]:
            with pytest.raises(UsageError):
                ask("predict", *arguments, **options)
    assert server.seen == []


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key and certificate of 127.0.0.1, signed by itself, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "edge")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "edge.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(private + made.public_bytes(Encoding.PEM))
    return path


@pytest.fixture
def secure(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def test_a_certificate_that_the_caller_vouches_for_is_accepted(
    connect: Connect, secure: ssl.SSLContext, certificate: Path
) -> None:
    with MisbehavingServer(GOOD, ssl_context=secure) as server:
        ask = connect(server.url, ca_file=certificate, token="secret")
        assert [ask("predict", "e", ROWS).slot for _ in range(3)] == ["blue"] * 3
    assert {seen.connection for seen in server.seen} == {0}


def test_a_certificate_that_nobody_vouches_for_is_refused(connect: Connect, secure: ssl.SSLContext) -> None:
    with (
        MisbehavingServer(GOOD, ssl_context=secure) as server,
        pytest.raises(Unavailable, match=r"certificate is refused.*self-signed") as caught,
    ):
        connect(server.url, token="secret")("predict", "e", ROWS)
    assert server.seen == []
    assert caught.value.num_attempts == 1


def test_the_deadline_holds_over_tls(connect: Connect, secure: ssl.SSLContext, certificate: Path) -> None:
    step = drip(b"HTTP/1.1 200 OK\r\n")
    with MisbehavingServer(step, ssl_context=secure) as server, pytest.raises(DeadlineExceeded):
        connect(server.url, ca_file=certificate)("predict", "e", ROWS, timeout_s=0.3)


def test_threads_share_a_client() -> None:
    with MisbehavingServer(GOOD) as server, Client(server.url, retries=None) as client, ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda _: client.predict("e", ROWS).scores[0], range(80)))
    assert done == [0.25] * 80
    assert len({seen.connection for seen in server.seen}) <= 8


def test_a_forked_child_leaves_its_parents_connections_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with MisbehavingServer(GOOD) as server, Client(server.url) as client:
        client.predict("e", ROWS)
        monkeypatch.setattr("os.getpid", lambda: -1)
        client.predict("e", ROWS)
    assert [seen.connection for seen in server.seen] == [0, 1]


def test_calls_on_one_loop_overlap() -> None:
    async def ask_all(url: str) -> list[float]:
        async with AsyncClient(url) as client:
            done = await asyncio.gather(*(client.predict("e", ROWS) for _ in range(40)))
            return [float(prediction.scores[0]) for prediction in done]

    with MisbehavingServer(GOOD) as server:
        assert asyncio.run(ask_all(server.url)) == [0.25] * 40
    assert len({seen.connection for seen in server.seen}) > 1


def test_nobody_reads_the_token_off_a_client() -> None:
    for client in (Client("http://127.0.0.1:1", token="secret"), AsyncClient("http://127.0.0.1:1", token="secret")):
        assert "secret" not in repr(client)
