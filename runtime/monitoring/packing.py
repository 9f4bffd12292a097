"""Counts as the bytes that the control store keeps: JSON with packed arrays, compressed."""

import zlib
from collections.abc import Mapping
from typing import Any

import orjson

from runtime.core.errors import ContractError
from runtime.monitoring.deltas import Series, Tally

LEVEL = 1
"""Of zlib: higher ones make it a tenth smaller and several times slower."""


def pack(value: Any) -> bytes:
    return zlib.compress(orjson.dumps(value), LEVEL)


def unpack(content: bytes) -> Any:
    """ContractError if `pack` did not make it."""
    try:
        return orjson.loads(zlib.decompress(content))
    except (zlib.error, ValueError) as error:
        raise ContractError(f"what the monitor kept in the control store is broken: {error!r}") from error


def tallies_json(tallies: Mapping[Series, Tally]) -> list[Any]:
    return [
        [[series.endpoint, series.slot, series.model_version], tally.to_json()] for series, tally in tallies.items()
    ]


def tallies_from_json(value: list[Any]) -> dict[Series, Tally]:
    return {
        Series(endpoint=endpoint, slot=slot, model_version=model_version): Tally.from_json(tally)
        for (endpoint, slot, model_version), tally in value
    }
