"""Idempotency keys: a command that is repeated with its key gives its first answer and does nothing again."""

from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import insert, select

from runtime.core.clock import utc_now
from runtime.core.errors import UsageError
from runtime.core.hashing import sha256_json
from runtime.store import tables
from runtime.store.database import Database, retried
from runtime.store.records import Answer


class AnswerStore(Database):
    """An answer stands in the same transaction as what it tells of, so there is never one without the other."""

    def is_answered(self, key: str) -> bool:
        """Whether a command was done with this key."""
        with self._read() as connection:
            columns = tables.answers.c
            return connection.execute(select(columns.key).where(columns.key == key)).first() is not None

    @retried
    def idempotent(self, key: str, request: Mapping[str, Any], action: Callable[[], Mapping[str, Any]]) -> Answer:
        """Run `action` in one transaction, once for each key; its JSON-able answer is given to every repetition.

        `request` is what was asked, with its arguments: UsageError if the key stands for something else already.
        An action that raises leaves nothing behind, and its key is free.
        """
        asked = sha256_json(dict(request))
        columns = tables.answers.c
        with self._write() as connection:
            query = select(columns.request_sha256, columns.answer).where(columns.key == key)
            found = connection.execute(query).first()
            if found is not None:
                if found.request_sha256 != asked:
                    raise UsageError(f"idempotency key {key!r} was used for another command; take a new one")
                return Answer(value=found.answer, is_repeated=True)
            value = dict(action())
            connection.execute(insert(tables.answers).values(key=key, request_sha256=asked, answer=value, at=utc_now()))
            return Answer(value=value, is_repeated=False)
