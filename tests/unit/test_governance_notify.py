"""Notifications: signed, at least once, retried with growing pauses; what a receiver sees."""

import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from runtime.config.notifications import NotifyConfig, SinkConfig
from runtime.core.errors import NotFoundError
from runtime.governance.notify import Delivered, Notifier, Request, describe, post
from runtime.store.control import ControlStore
from runtime.store.records import Message
from tests.store_conformance import deploy_two, model

SECRET = "a shared secret"
NOW = time.time() + 3600
"""Later than every message of a test, by far less than the time after which one is dropped."""


@dataclass
class Receiver:
    """A real HTTP server that answers with the statuses it is given, then 200."""

    url: str
    statuses: list[int] = field(default_factory=list)
    received: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    @property
    def events(self) -> list[str]:
        return [headers["x-teal-event"] for headers, _ in self.received]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            found.received.append(({name.lower(): value for name, value in self.headers.items()}, body))
            status = found.statuses.pop(0) if found.statuses else 200
            self.send_response(status)
            if status == 302:
                self.send_header("location", found.url + "/elsewhere")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = Receiver(url=f"http://127.0.0.1:{server.server_port}/hook")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ControlStore]:
    store = ControlStore(f"sqlite:///{tmp_path}/control.db")
    store.create_schema()
    for version in (1, 2, 3):
        store.record_model_version(model(version))
    deploy_two(store)
    yield store
    store.close()


@pytest.fixture
def notifier(store: ControlStore, receiver: Receiver, tmp_path: Path) -> Notifier:
    (tmp_path / "secret").write_text(SECRET + "\n")
    hook = SinkConfig(url=receiver.url, secret_file=str(tmp_path / "secret"))
    notifier = Notifier(store=store, config=NotifyConfig(sinks={"hook": hook}), jitter=lambda: 1.0)
    notifier.subscribe()
    return notifier


def test_a_change_reaches_a_receiver_that_can_check_it(
    notifier: Notifier, store: ControlStore, receiver: Receiver
) -> None:
    store.set_share("flights", 500, actor="ann", reason="looks good")
    assert notifier.deliver_due(NOW) == Delivered(num_sent=1)
    ((headers, body),) = receiver.received
    expected = hmac.new(SECRET.encode(), str(int(NOW)).encode() + b"." + body, hashlib.sha256).hexdigest()
    assert (headers["x-teal-timestamp"], headers["x-teal-signature"]) == (str(int(NOW)), f"sha256={expected}")
    content = json.loads(body)
    assert (content["id"], content["topic"]) == (headers["x-teal-event"], "transition")
    head = store.head()
    assert head is not None
    assert (content["data"]["sequence"], content["data"]["hash"]) == (head.sequence, head.hash)
    assert notifier.deliver_due(NOW + 9) == Delivered()


def test_a_receiver_that_fails_gets_the_same_event_again_later(
    notifier: Notifier, store: ControlStore, receiver: Receiver
) -> None:
    receiver.statuses = [503, 500]
    store.set_share("flights", 500, actor="ann")
    store.set_share("flights", 600, actor="ann")
    now = NOW
    assert notifier.deliver_due(now) == Delivered(num_failed=1)
    assert store.pending("notify:hook", now=now + 1.0)[0].error == "the receiver answered 503"
    assert notifier.deliver_due(now + 1.0) == Delivered(num_failed=1)
    assert notifier.deliver_due(now + 3.0) == Delivered(num_sent=2)
    first, again, third, second = receiver.events
    assert first == again == third != second
    assert store.backlog() == {}


def test_a_receiver_that_is_away_holds_up_no_other(store: ControlStore, receiver: Receiver, tmp_path: Path) -> None:
    slack = SinkConfig(kind="slack", url=receiver.url)
    gone = SinkConfig(url="http://127.0.0.1:9/", secret_env="TEAL_TEST_SECRET_THAT_IS_NOT_SET")
    notifier = Notifier(store=store, config=NotifyConfig(sinks={"gone": gone, "slack": slack}))
    notifier.subscribe()
    store.set_share("flights", 500, actor="ann")
    assert notifier.deliver_due(NOW) == Delivered(num_sent=1, num_failed=1)
    assert json.loads(receiver.received[0][1]) == {"text": "teal: ann shift flights from 0 % to 5 %"}
    (waiting,) = store.pending("notify:gone", now=1e12)
    assert waiting.error is not None
    assert "environment variable TEAL_TEST_SECRET_THAT_IS_NOT_SET is empty" in waiting.error


def test_only_the_actions_asked_for_are_sent(store: ControlStore, receiver: Receiver) -> None:
    sink = SinkConfig(kind="slack", url=receiver.url, actions=["rollback"])
    notifier = Notifier(store=store, config=NotifyConfig(sinks={"team": sink}))
    notifier.subscribe()
    store.set_share("flights", 500, actor="ann")
    store.set_share("flights", 0, actor="bob", action="rollback", reason="bad")
    assert notifier.deliver_due(NOW).num_failed == 0
    assert [json.loads(body)["text"] for _, body in receiver.received] == [
        "teal: bob rollback flights from 5 % to 0 %: bad"
    ]


def test_pauses_double_up_to_a_limit_with_jitter(notifier: Notifier) -> None:
    assert [notifier.retry_after_s(attempt) for attempt in (0, 1, 2, 20)] == [1.0, 2.0, 4.0, 300.0]
    low = replace(notifier, jitter=lambda: 0.0)
    assert [low.retry_after_s(attempt) for attempt in (0, 2)] == [0.5, 2.0]


def test_what_nobody_takes_for_a_week_is_dropped(notifier: Notifier, store: ControlStore, receiver: Receiver) -> None:
    store.set_share("flights", 500, actor="ann")
    (message,) = store.pending("notify:hook", now=1e12)
    receiver.statuses = [500, 500]
    week = notifier.config.give_up_after_s
    assert notifier.deliver_due(message.created_at + week - 10).num_failed == 1
    assert notifier.deliver_due(message.created_at + week + 10) == Delivered(num_dropped=1)
    assert store.backlog() == {}


def test_one_notifier_delivers_at_a_time(notifier: Notifier, store: ControlStore, receiver: Receiver) -> None:
    store.set_share("flights", 500, actor="ann")
    inside = threading.Event()
    go_on = threading.Event()

    def slow(request: Request) -> str | None:
        inside.set()
        assert go_on.wait(30)
        return post(request)

    first = replace(notifier, post=slow, holder="first")
    thread = threading.Thread(target=first.deliver_due, args=(NOW,))
    thread.start()
    assert inside.wait(30)
    assert replace(notifier, holder="second").deliver_due(NOW) == Delivered()
    go_on.set()
    thread.join(30)
    assert len(receiver.received) == 1


def test_a_sink_that_is_no_longer_configured_collects_nothing(notifier: Notifier, store: ControlStore) -> None:
    store.set_share("flights", 500, actor="ann")
    store.subscribe("something else", ["transition"])
    Notifier(store=store, config=NotifyConfig()).subscribe()
    assert (store.consumers(), store.backlog()) == (["something else"], {})


def test_a_redirect_is_not_followed_and_a_test_event_says_what_went_wrong(
    notifier: Notifier, receiver: Receiver
) -> None:
    receiver.statuses = [302]
    assert notifier.send_test("hook", actor="ann", now=NOW) == "the receiver answered 302"
    assert notifier.send_test("hook", actor="ann", now=NOW) is None
    assert len(receiver.received) == 2
    with pytest.raises(NotFoundError, match="no notification sink 'other'; known: hook"):
        notifier.send_test("other", actor="ann", now=NOW)


def test_nobody_listening_is_an_error_without_the_url() -> None:
    request = Request(url="http://127.0.0.1:9/very-secret", body=b"{}", headers={}, timeout_s=1)
    error = post(request)
    assert error is not None
    assert "secret" not in error


def test_a_line_for_people_names_who_what_and_why() -> None:
    def line(topic: str, payload: dict[str, Any]) -> str:
        shared = dict(id=1, consumer="c", event_id="e", created_at=0.0, num_attempts=0, next_at=0.0, error=None)
        return describe(Message(topic=topic, payload=payload, **shared))  # type: ignore[arg-type]

    assigned = {"actor": "ann", "action": "assign", "endpoint": "flights", "detail": {"model": "flights:3"}}
    assert line("transition", assigned) == "teal: ann assign flights flights:3"
    assert line("news", {"text": "t"}) == 'teal: news {"text": "t"}'
    alert = {
        "kind": "fired",
        "severity": "page",
        "rule": "slow",
        "endpoint": "flights",
        "slot": "green",
        "impact": None,
    }
    numbers = {"signal": "latency_p95_ms", "value": 120.0, "threshold": 80.0}
    assert line("alert", alert | numbers) == (
        "teal: page slow fired on flights, green: latency_p95_ms is 120, the limit 80"
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"secret_env": "A"}, "exactly one of url, url_env and url_file"),
        ({"url": "https://x", "url_env": "B", "secret_env": "A"}, "exactly one of url"),
        ({"url": "https://x"}, "a webhook needs exactly one of secret_env and secret_file"),
        ({"url": "https://x", "kind": "slack", "secret_env": "A"}, "a slack sink signs nothing"),
        ({"url": "https://x", "secret_env": "A", "topics": []}, "at least one topic"),
        ({"url": "https://x", "secret_env": "A", "timeout_s": 0}, "timeout_s must be above 0"),
    ],
)
def test_a_sink_that_cannot_work_is_refused_where_it_is_configured(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SinkConfig(**values)  # type: ignore[arg-type]
