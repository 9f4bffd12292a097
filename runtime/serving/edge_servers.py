"""Which replicas stand behind each slot at the edge, and the commands that tell a running HAProxy. Pure.

HAProxy's configuration declares places without an address, so that replicas come and go without a reload. For each it
sets a file descriptor and some memory aside, so a slot has few until it needs more.
"""

from collections.abc import Iterable, Mapping, Sequence

from runtime.serving.edge_shares import app_name, grpc_app
from runtime.store.records import SLOTS, EndpointState, Replica

FEW_PLACES = 4
"""Of a slot; twice as many where it has more replicas, and so on."""
MOST_PLACES = 32
"""Replicas of one slot that an edge sends to; those beyond get nothing from it."""
PLACE = "replica"
"""Name of a place, followed by its number from 1."""
NO_ADDRESS = "127.0.0.1:1"

Address = tuple[str, int]
Places = Mapping[int, Address]
"""Number of a place to the replica in it."""


def wanted_addresses(
    endpoints: Iterable[EndpointState], replicas: Iterable[Replica], *, alive_since: float
) -> dict[str, list[Address]]:
    """Backend to its ready replicas that run the very bundle which the store wants in that slot."""
    wanted: dict[str, list[Address]] = {}
    bundles = {}
    for endpoint in endpoints:
        for slot in SLOTS:
            model = endpoint.slot(slot).model
            if model is not None:
                bundles[endpoint.name, slot] = model.bundle_sha256
                app = app_name(endpoint.name, slot)
                wanted[app], wanted[grpc_app(app)] = [], []
    # A port of a replica that died without a word may be another's by now, and for gRPC: the newer row is right.
    owners: dict[Address, Replica] = {}
    for replica in sorted(replicas, key=lambda replica: replica.at):
        owners |= {(replica.host, port): replica for port in (replica.port, replica.grpc_port) if port is not None}
    for address, replica in owners.items():
        is_wanted = bundles.get((replica.endpoint, replica.slot)) == replica.bundle_sha256
        if is_wanted and replica.state == "ready" and replica.at >= alive_since:
            app = app_name(replica.endpoint, replica.slot)
            wanted[app if address[1] == replica.port else grpc_app(app)].append(address)
    return {app: sorted(addresses) for app, addresses in wanted.items()}


def count_places(wanted: Mapping[str, Sequence[Address]], declared: Mapping[str, int]) -> dict[str, int]:
    """Backend to how many places it is declared with. Never fewer than it is: each change is a reload."""
    return {app: _places_for(len(addresses), declared.get(app, FEW_PLACES)) for app, addresses in wanted.items()}


def _places_for(num_replicas: int, num_places: int) -> int:
    while num_places < min(num_replicas, MOST_PLACES):
        num_places *= 2
    return num_places


def assign_places(before: Places, wanted: Sequence[Address], *, num_places: int) -> dict[int, Address]:
    """Who stays keeps the place; who comes gets the lowest free one. Those beyond `num_places` get none."""
    wanted_set = set(wanted)
    after = {number: address for number, address in before.items() if address in wanted_set}
    placed = set(after.values())
    free = (number for number in range(1, num_places + 1) if number not in after)
    after |= dict(zip(free, (address for address in wanted if address not in placed), strict=False))
    return after


def place_commands(app: str, before: Places | None, after: Places, *, num_places: int) -> list[str]:
    """What HAProxy is told to get from one state to the other; `before` None: its state is unknown."""
    commands = []
    for number in range(1, num_places + 1):
        server = f"{app}/{PLACE}{number}"
        old, new = (None if before is None else before.get(number)), after.get(number)
        if new is None:
            if old is not None or before is None:
                # Nothing new is sent; what runs is finished.
                commands.append(f"set server {server} state maint")
        elif new != old:
            commands.append(f"set server {server} addr {new[0]} port {new[1]}")
            commands.append(f"set server {server} state ready")
    return commands
