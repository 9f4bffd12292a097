"""W3C trace context: the header of what a replica itself asks of others on behalf of a request."""

import os
import re

TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def child_traceparent(parent: str) -> str | None:
    """The same trace with a span id of its own; None where `parent` is no traceparent."""
    if TRACEPARENT.fullmatch(parent) is None:
        return None
    version, trace_id, _, flags = parent.split("-")
    return f"{version}-{trace_id}-{os.urandom(8).hex()}-{flags}"
