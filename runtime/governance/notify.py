"""Delivery of the outbox to people's systems: signed webhooks and Slack, each event at least once.

A webhook gets `{"id", "topic", "at", "data"}` with the headers `x-teal-event` (the same id at every repetition: what a
receiver tells them by), `x-teal-timestamp` (seconds since 1970, now) and `x-teal-signature`, which is `sha256=` and the
hex HMAC-SHA256 of `<timestamp>.<body>` under the shared secret. Order is kept unless a delivery fails.
"""

import hashlib
import hmac
import json
import logging
import os
import random
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.client import HTTPException
from pathlib import Path
from typing import Any

from runtime.config.notifications import NotifyConfig, SinkConfig
from runtime.core.errors import ConfigError, NotFoundError
from runtime.core.ids import new_id
from runtime.store.alerts import ALERT_TOPIC
from runtime.store.control import ControlStore
from runtime.store.records import Message

CONSUMER_PREFIX = "notify:"
LEASE = "notifier"
LEASE_S = 60.0
BATCH = 100
TEST_TOPIC = "test"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    url: str
    body: bytes
    headers: dict[str, str]
    timeout_s: float


Post = Callable[[Request], str | None]
"""Sends a request; returns what went wrong, None if the receiver took it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivered:
    num_sent: int = 0
    num_failed: int = 0
    num_dropped: int = 0


def _new_holder() -> str:
    return f"{os.uname().nodename}/{os.getpid()}/{new_id()}"


@dataclass(kw_only=True)
class Notifier:
    """Takes what is due out of the outbox. Any number may run: a lease lets one at a time deliver."""

    store: ControlStore
    config: NotifyConfig
    post: Post = field(default_factory=lambda: post)
    jitter: Callable[[], float] = random.random
    holder: str = field(default_factory=_new_holder)

    def subscribe(self) -> None:
        """Make the outbox collect for the configured sinks, and no longer for those that are not any more."""
        for name, sink in self.config.sinks.items():
            self.store.subscribe(CONSUMER_PREFIX + name, sink.topics)
        for consumer in self.store.consumers():
            if consumer.startswith(CONSUMER_PREFIX) and consumer[len(CONSUMER_PREFIX) :] not in self.config.sinks:
                self.store.subscribe(consumer, [])

    def deliver_due(self, now: float) -> Delivered:
        """One round: every sink gets what is due, up to its first failure. `now` is seconds since 1970."""
        due = {name: self.store.pending(CONSUMER_PREFIX + name, now=now, limit=BATCH) for name in self.config.sinks}
        if not any(due.values()):
            return Delivered()
        lease = self.store.acquire_lease(LEASE, self.holder, LEASE_S, now)
        if lease is None:
            return Delivered()
        num_sent = num_failed = num_dropped = 0
        for name, messages in due.items():
            for message in messages:
                error = self._deliver(name, message, now)
                if error is None:
                    self.store.delivered(message.id)
                    num_sent += 1
                    continue
                if now - message.created_at > self.config.give_up_after_s:
                    self.store.delivered(message.id)
                    num_dropped += 1
                    logger.error(
                        "a message is dropped", extra={"sink": name, "event": message.event_id, "reason": error}
                    )
                    continue
                self.store.failed(message.id, error, now + self.retry_after_s(message.num_attempts))
                num_failed += 1
                logger.warning("a message is not delivered", extra={"sink": name, "reason": error})
                break
        self.store.release_lease(lease)
        return Delivered(num_sent=num_sent, num_failed=num_failed, num_dropped=num_dropped)

    def retry_after_s(self, num_attempts: int) -> float:
        """Between half and all of a time that doubles, so that many messages do not come back at once."""
        longest = min(self.config.max_retry_s, self.config.first_retry_s * 2.0 ** min(num_attempts, 30))
        return longest * (0.5 + 0.5 * self.jitter())

    def send_test(self, name: str, *, actor: str, now: float) -> str | None:
        """Send one sink a test event now, past the outbox; returns what went wrong."""
        if name not in self.config.sinks:
            known = ", ".join(sorted(self.config.sinks)) or "none; notify.sinks configures them"
            raise NotFoundError(f"no notification sink {name!r}; known: {known}")
        payload = {"actor": actor, "action": "test", "endpoint": "", "detail": {}}
        sink = self.config.sinks[name]
        event = Message(
            id=0,
            consumer=name,
            event_id=new_id(),
            topic=TEST_TOPIC,
            payload=payload,
            created_at=now,
            num_attempts=0,
            next_at=now,
            error=None,
        )
        return self.post(build_request(name, sink, event, now))

    def _deliver(self, name: str, message: Message, now: float) -> str | None:
        sink = self.config.sinks[name]
        if sink.actions is not None and "action" in message.payload and message.payload["action"] not in sink.actions:
            return None
        try:
            return self.post(build_request(name, sink, message, now))
        except ConfigError as error:
            # A secret that is missing now may be there at the next attempt; other sinks must not wait for it.
            return str(error)


def build_request(name: str, sink: SinkConfig, message: Message, now: float) -> Request:
    """What is sent. ConfigError if the URL or the secret is not where the configuration says."""
    url = sink.url or _read_secret(name, "url", sink.url_env, sink.url_file)
    if not url.startswith(("https://", "http://")):
        raise ConfigError(f"the URL of notification sink {name!r} must begin with https:// or http://")
    headers = {"content-type": "application/json", "user-agent": "teal", "x-teal-event": message.event_id}
    if sink.kind == "slack":
        body = json.dumps({"text": describe(message)}, ensure_ascii=False).encode()
        return Request(url=url, body=body, headers=headers, timeout_s=sink.timeout_s)
    content = {
        "id": message.event_id,
        "topic": message.topic,
        "at": datetime.fromtimestamp(message.created_at, UTC).isoformat(),
        "data": message.payload,
    }
    body = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    timestamp = str(int(now))
    secret = _read_secret(name, "secret", sink.secret_env, sink.secret_file)
    headers |= {"x-teal-timestamp": timestamp, "x-teal-signature": sign(secret, timestamp, body)}
    return Request(url=url, body=body, headers=headers, timeout_s=sink.timeout_s)


def sign(secret: str, timestamp: str, body: bytes) -> str:
    """A receiver computes the same, compares it in constant time, and refuses timestamps that are minutes old."""
    return "sha256=" + hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def describe(message: Message) -> str:
    """One line for people."""
    data = message.payload
    if message.topic == TEST_TOPIC:
        return f"teal: a test by {data['actor']}"
    if message.topic == ALERT_TOPIC:
        where = ", ".join(str(data[key]) for key in ("endpoint", "slot", "model_version") if data.get(key))
        impact = f"; {data['impact']}" if data.get("impact") else ""
        told = f"{data['severity']} {data['rule']} {data['kind']} on {where}"
        return f"teal: {told}: {data['signal']} is {data['value']:g}, the limit {data['threshold']:g}{impact}"
    if "action" not in data:
        return f"teal: {message.topic} {json.dumps(data, ensure_ascii=False, sort_keys=True)}"
    detail: Mapping[str, Any] = data.get("detail", {})
    where = f" {data['endpoint']}" if data.get("endpoint") else ""
    change = f" from {detail['from'] / 100:g} % to {detail['to'] / 100:g} %" if {"from", "to"} <= set(detail) else ""
    what = next((f" {detail[key]}" for key in ("model", "subject", "primary") if detail.get(key)), "")
    reason = f": {detail['reason']}" if detail.get("reason") else ""
    return f"teal: {data['actor']} {data['action']}{where}{what}{change}{reason}"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A signed event goes where the configuration says, and nowhere else."""

    def redirect_request(self, *_arguments: Any, **_named: Any) -> None:
        return None


def post(request: Request) -> str | None:
    """Send it over HTTP; what is not answered with 2xx in time is an error, in words without the URL's secrets."""
    opener = urllib.request.build_opener(_NoRedirect)
    sent = urllib.request.Request(request.url, data=request.body, headers=request.headers, method="POST")
    try:
        with opener.open(sent, timeout=request.timeout_s) as answer:
            answer.read(1)
        return None
    except urllib.error.HTTPError as error:
        error.close()
        return f"the receiver answered {error.code}"
    except (OSError, HTTPException, ValueError) as error:
        return f"the receiver cannot be reached: {getattr(error, 'reason', error)}"


def _read_secret(name: str, what: str, variable: str | None, file: str | None) -> str:
    if variable is not None:
        value = os.environ.get(variable, "").strip()
        place = f"environment variable {variable}"
    else:
        place = f"file {file}"
        try:
            value = Path(file or "").read_text().strip()
        except OSError as error:
            raise ConfigError(f"cannot read the {what} of notification sink {name!r} from {place}: {error}") from error
    if not value:
        raise ConfigError(f"the {what} of notification sink {name!r} is missing: {place} is empty")
    return value
