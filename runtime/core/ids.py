"""Identifiers that sort by time: uuid7 of RFC 9562."""

import os
import time

UUID7_PATTERN = "^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$"
"""Of ids as they are made here; they are joined as text, so there is no other way to write one."""


def new_id() -> str:
    """A uuid7 as text: 48 bits of milliseconds since 1970, then 74 random bits."""
    return format_uuid7(time.time_ns() // 1_000_000, os.urandom(10))


def format_uuid7(timestamp_ms: int, randomness: bytes) -> str:
    """The uuid7 of a time and of 10 random bytes, of which 74 bits are used."""
    random_bits = int.from_bytes(randomness)
    value = timestamp_ms << 80
    value |= 0x7 << 76 | (random_bits >> 62 & 0xFFF) << 64
    value |= 0b10 << 62 | random_bits & (1 << 62) - 1
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def timestamp_ms(uuid7: str) -> int:
    """Milliseconds since 1970 that a uuid7 was made at. ValueError if it is not one."""
    digits = uuid7.replace("-", "")
    if len(digits) != 32 or digits[12] != "7":
        raise ValueError(f"not a uuid7: {uuid7!r}")
    return int(digits[:12], 16)
