"""Loaded by schemathesis (SCHEMATHESIS_HOOKS): bodies of the media types that are no JSON."""

from typing import Any

import schemathesis
from hypothesis import strategies as st

from tests.serving_example import example_columns, example_row
from tests.serving_protocols import arrow_stream, as_table

MAX_ROWS = 8
UNDECLARED = "x-schemathesis-unknown-property"

STREAMS = st.integers(1, MAX_ROWS).map(
    lambda number: arrow_stream(as_table([example_row(index) for index in range(number)], example_columns()))
)
schemathesis.openapi.media_type("application/vnd.apache.arrow.stream", STREAMS)
# The binary extension needs a header that fits the body; what does not fit is refused, which is tested elsewhere.
schemathesis.openapi.media_type("application/octet-stream", st.binary(max_size=64))


@schemathesis.hook
def filter_case(_context: Any, case: Any) -> bool:
    """Without cases whose only fault is a header that nobody declared, which is none.

    Schemathesis knows that, unless a header beside it is declared an integer: it takes the integer's text for a fault.
    """
    return UNDECLARED not in (case.headers or {})
