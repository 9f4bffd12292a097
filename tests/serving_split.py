"""The split as arithmetic: what HAProxy computes of a routing key, here of many at once, and keys of several kinds."""

from collections.abc import Callable, Iterable
from random import Random

import numpy as np
import numpy.typing as npt
import xxhash
from scipy import stats

from runtime.core.ids import format_uuid7
from runtime.store.records import FULL_SHARE

Buckets = npt.NDArray[np.int64]
SEED = 20_261_124
FIRST_MS = 1_700_000_000_000
SHORT = "0123456789abcdefghijklmnopqrstuvwxyz"


def buckets_of(keys: Iterable[str]) -> Buckets:
    """xxh32 of the key's UTF-8, seed 0, mod FULL_SHARE; a key is on green where that is below the share."""
    digest = xxhash.xxh32_intdigest
    return np.fromiter((digest(key.encode()) for key in keys), dtype=np.int64) % FULL_SHARE


def evenness(buckets: Buckets) -> float:
    """p-value of chi-square: near 0 where buckets are filled unevenly, near 1 where more evenly than chance would."""
    return float(stats.chisquare(np.bincount(buckets, minlength=FULL_SHARE)).pvalue)


def _uuid4(number: int) -> list[str]:
    digits = Random(SEED).randbytes(16 * number).hex()
    parts = (digits[at : at + 32] for at in range(0, len(digits), 32))
    return [
        f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{'89ab'[at & 3]}{text[17:20]}-{text[20:]}"
        for at, text in enumerate(parts)
    ]


def _uuid7(number: int) -> list[str]:
    content = Random(SEED + 1).randbytes(10 * number)
    return [format_uuid7(FIRST_MS + index, content[index * 10 : index * 10 + 10]) for index in range(number)]


def _short(number: int) -> list[str]:
    """Every text of 1 to 4 letters and digits, the shortest first."""
    texts = [""]
    start = 0
    while len(texts) <= number:
        end = len(texts)
        texts += [text + letter for text in texts[start:end] for letter in SHORT]
        start = end
    return texts[1 : number + 1]


KINDS: dict[str, Callable[[int], list[str]]] = {
    "uuid4": _uuid4,
    "uuid7": _uuid7,
    "integer": lambda number: [str(index) for index in range(number)],
    "user": lambda number: [f"user-{index}" for index in range(number)],
    "short": _short,
}
