"""The time of day as text, in one form."""

from datetime import UTC, datetime


def utc_now() -> str:
    """Now, ISO 8601 in UTC with microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def utc_text(seconds: float) -> str:
    """A time in seconds since 1970, in the same form."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds")
