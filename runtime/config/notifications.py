"""Configuration of who is told of what was changed. Secrets are named here, never written."""

from dataclasses import field
from typing import Literal

from pydantic.dataclasses import dataclass

from runtime.config.strict import STRICT


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class SinkConfig:
    """One receiver. A Slack URL is itself a secret, so a URL may come from where secrets come from."""

    kind: Literal["webhook", "slack"] = "webhook"
    """`webhook` sends the event as JSON, signed; `slack` a line of text as Slack's incoming webhooks take it."""
    url: str | None = None
    url_env: str | None = None
    """Environment variable that holds the URL."""
    url_file: str | None = None
    """File that holds the URL."""
    secret_env: str | None = None
    """Environment variable that holds the key of the signature."""
    secret_file: str | None = None
    """File that holds it."""
    topics: list[str] = field(default_factory=lambda: ["transition", "alert"])
    actions: list[str] | None = None
    """Of the transitions only these: shift, rollback, promote, ...; None takes all."""
    timeout_s: float = 5.0

    def __post_init__(self) -> None:
        urls = [name for name in ("url", "url_env", "url_file") if getattr(self, name) is not None]
        if len(urls) != 1:
            raise ValueError(f"exactly one of url, url_env and url_file must be given but got {urls}")
        secrets = [name for name in ("secret_env", "secret_file") if getattr(self, name) is not None]
        if self.kind == "webhook" and len(secrets) != 1:
            raise ValueError(f"a webhook needs exactly one of secret_env and secret_file but got {secrets}")
        if self.kind == "slack" and secrets:
            raise ValueError(f"a slack sink signs nothing; leave out {secrets[0]}")
        if not self.topics:
            raise ValueError("topics must name at least one topic")
        if self.timeout_s <= 0:
            raise ValueError(f"timeout_s must be above 0 but got {self.timeout_s:g}")


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class NotifyConfig:
    """Receivers by name, and how often one that does not answer is tried."""

    sinks: dict[str, SinkConfig] = field(default_factory=dict)
    poll_s: float = 1.0
    first_retry_s: float = 1.0
    """Doubled at every attempt, with jitter, up to max_retry_s."""
    max_retry_s: float = 300.0
    give_up_after_s: float = 7 * 86400.0
    """A message that a receiver has not taken for so long is dropped, which the log says."""

    def __post_init__(self) -> None:
        for name in ("poll_s", "first_retry_s", "give_up_after_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0 but got {getattr(self, name):g}")
        if self.max_retry_s < self.first_retry_s:
            raise ValueError(f"max_retry_s {self.max_retry_s:g} is below first_retry_s {self.first_retry_s:g}")
