NumberColumn = tuple[bytes | None, int, bytes, None]
"""A bit for each row that has a value (None: all have), rows that have none, doubles."""
TextColumn = tuple[bytes | None, int, bytes, bytes]
"""The same two, Arrow's offsets, characters."""

def read_rows(
    body: bytes, start: int, keys: tuple[bytes, ...], kinds: bytes, min_rows: int, max_rows: int, /
) -> tuple[int, int, tuple[NumberColumn | TextColumn | None, ...]] | None:
    """Rows of objects that all have these keys, as the document writes them, in this order; None if they are declined.

    `start`: behind the list's bracket. `kinds`: of each key `n` for a number, `t` for text, `i` for what nobody looks
    at, which has no column. Bytes that are no ASCII must be UTF-8. Gives the place behind the closing bracket, the
    number of rows, and the columns.
    """
