"""Which routing keys met an error at the edge: rules for a slot's backend, and how their table is read.

A rollout with sticky keys counts each key once. Requests without x-routing-key cost nothing here. Text in, text out.
"""

import re

KEYS_KEPT = 100_000
"""That a slot's backend remembers, by their hash; of more the oldest are forgotten."""
COUNT_FAILED_KEYS = f"""    stick-table type integer size {KEYS_KEPT} store gpc0
    http-request track-sc1 var(txn.sticky) if {{ var(txn.sticky) -m found }}
    http-after-response sc-inc-gpc0(1) if {{ var(txn.sticky) -m found }} {{ status ge 500 }}"""
_ENTRY = re.compile(r"key=(\d+) .*gpc0=(\d+)")


def failed_keys_command(app: str) -> str:
    """For the admin socket: only keys with an error are listed."""
    return f"show table {app} data.gpc0 gt 0"


def parse_failed_keys(text: str) -> dict[str, int]:
    """Hash of a key to its number of errors."""
    return {found[1]: int(found[2]) for line in text.splitlines() if (found := _ENTRY.search(line))}
