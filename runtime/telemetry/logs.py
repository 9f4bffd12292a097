"""Logs as one JSON object a line."""

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any, TextIO

LOUD_LIBRARIES = ("aiohttp.access", "alembic", "matplotlib", "mlflow", "ray.serve", "sqlalchemy", "urllib3")
"""They log at warning and above only."""

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def configure_logging(level: int | str = logging.INFO, stream: TextIO | None = None) -> None:
    """Send the root logger's records to `stream` (standard error) as JSON. Calling it again replaces the handler."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in LOUD_LIBRARIES:
        logging.getLogger(name).setLevel(logging.WARNING)


class JsonFormatter(logging.Formatter):
    """Keys at, level, logger, message, whatever `extra=` gave (a request's id for one), and the traceback as error."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in vars(record).items() if name not in _STANDARD and name not in line}
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = "".join(traceback.format_exception(*record.exc_info))
        return json.dumps(line, default=str, ensure_ascii=False)
