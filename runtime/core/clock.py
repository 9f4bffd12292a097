"""The time of day as text, in one form."""

from datetime import UTC, datetime


def utc_now() -> str:
    """Now, ISO 8601 in UTC with microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds")
