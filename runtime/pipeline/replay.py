"""Send the rows of a table through the edge as a client would, and give their labels back afterwards.

Requests carry many rows each; every row's prediction id is kept with the row's own period, so that quality can be told
by the time of the event and not of the replay.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runtime.core.errors import UnreachableError
from runtime.pipeline.progress import Progress

ROWS_PER_REQUEST = 50
LABELS_PER_REQUEST = 2_000
CONCURRENCY = 4
REQUEST_TIMEOUT_S = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Replayed:
    """What came back for the rows of one period."""

    period: str
    prediction_ids: list[str]
    """One a row: the id of the request it was in."""
    row_numbers: list[int]
    """Its place in that request."""
    groups: list[Any]
    """What its row belongs together with others by."""
    labels: list[int]
    num_requests: int
    num_failed: int


def replay(
    edge_url: str,
    endpoint: str,
    rows: Sequence[dict[str, Any]],
    groups: Sequence[Any],
    labels: Sequence[int],
    period: str,
    progress: Progress,
) -> Replayed:
    """Ask for a prediction of every row. Failed requests are counted, not repeated."""
    batches = [rows[start : start + ROWS_PER_REQUEST] for start in range(0, len(rows), ROWS_PER_REQUEST)]
    bodies = [{"instances": list(batch)} for batch in batches]
    answers = asyncio.run(
        _post_all(f"{edge_url}/v1/models/{endpoint}:predict", bodies, progress, f"serving the flights of {period}")
    )
    ids: list[str] = []
    numbers: list[int] = []
    positions: list[int] = []
    for start, (batch, answer) in enumerate(zip(batches, answers, strict=True)):
        if answer is not None:
            positions += range(start * ROWS_PER_REQUEST, start * ROWS_PER_REQUEST + len(batch))
            ids += [answer["prediction_id"]] * len(batch)
            numbers += range(len(batch))
    return Replayed(
        period=period,
        prediction_ids=ids,
        row_numbers=numbers,
        groups=[groups[position] for position in positions],
        labels=[int(labels[position]) for position in positions],
        num_requests=len(bodies),
        num_failed=sum(answer is None for answer in answers),
    )


def send_labels(edge_url: str, endpoint: str, replayed: Replayed, progress: Progress) -> tuple[int, int]:
    """Give the labels of replayed rows back by id. Returns requests sent and failed."""
    entries = [
        {"prediction_id": prediction_id, "row": row, "label": label}
        for prediction_id, row, label in zip(
            replayed.prediction_ids, replayed.row_numbers, replayed.labels, strict=True
        )
    ]
    bodies = [
        {"labels": entries[start : start + LABELS_PER_REQUEST]} for start in range(0, len(entries), LABELS_PER_REQUEST)
    ]
    url = f"{edge_url}/v1/models/{endpoint}:feedback"
    answers = asyncio.run(_post_all(url, bodies, progress, f"labels of {replayed.period} come back"))
    return len(bodies), sum(answer is None for answer in answers)


async def _post_all(url: str, bodies: Sequence[dict[str, Any]], progress: Progress, text: str) -> list[Any]:
    """The answers in the order of the bodies, None where one failed. UnreachableError if all did."""
    import aiohttp
    import orjson

    answers: list[Any] = [None] * len(bodies)
    queue = iter(enumerate(bodies))
    errors: list[str] = []
    num_done = 0

    async def work(client: aiohttp.ClientSession) -> None:
        nonlocal num_done
        for number, body in queue:
            try:
                async with client.post(
                    url, data=orjson.dumps(body), headers={"content-type": "application/json"}
                ) as response:
                    content = await response.read()
                    if response.status == 200:
                        answers[number] = orjson.loads(content)
                    else:
                        errors.append(f"{response.status} {content[:200].decode(errors='replace')}")
            except (aiohttp.ClientError, TimeoutError) as error:
                errors.append(repr(error))
            num_done += 1
            progress.update(text, num_done, len(bodies))

    timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout) as client:
        await asyncio.gather(*(work(client) for _ in range(CONCURRENCY)))
    if bodies and len(errors) == len(bodies):
        raise UnreachableError(f"every request to {url} failed; the first: {errors[0]}")
    return answers
