"""Which replica stands in which place at the edge."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.core.errors import TealError
from runtime.serving.edge_placement import Placement
from runtime.serving.edge_process import EdgeProcess, split_answers
from runtime.serving.edge_servers import Address, assign_places, count_places, place_commands, wanted_addresses
from runtime.store.records import EndpointState, ModelVersion, Replica, SlotState

MODEL = ModelVersion(name="m", version=1, run_id="", bundle_uri="", bundle_sha256="new", lineage={}, created_at="")
ENDPOINT = EndpointState(
    name="flights",
    generation=3,
    primary="blue",
    share=0,
    blue=SlotState(slot="blue", model=MODEL),
    green=SlotState(slot="green", model=None),
)
REPLICA = Replica(
    replica_id="a",
    endpoint="flights",
    slot="blue",
    host="10.0.0.1",
    port=29001,
    grpc_port=None,
    bundle_sha256="new",
    state="ready",
    at=100.0,
)
ADDRESSES = st.lists(st.tuples(st.just("h"), st.integers(1, 9)), unique=True)


def wanted(*replicas: Replica) -> dict[str, list[Address]]:
    return wanted_addresses([ENDPOINT], replicas, alive_since=50.0)


def alone(*addresses: Address) -> dict[str, list[Address]]:
    """Nobody but these, over HTTP."""
    return {"flights-blue": list(addresses), "flights-blue-grpc": []}


def test_only_ready_replicas_of_the_wanted_bundle_are_asked() -> None:
    assert wanted(REPLICA) == alone(("10.0.0.1", 29001))
    assert wanted(replace(REPLICA, grpc_port=7))["flights-blue-grpc"] == [("10.0.0.1", 7)]
    others = (
        replace(REPLICA, replica_id="b", port=1, bundle_sha256="old"),
        replace(REPLICA, replica_id="c", port=2, state="draining"),
        replace(REPLICA, replica_id="d", port=3, at=49.0),
        replace(REPLICA, replica_id="e", port=4, slot="green"),
        replace(REPLICA, replica_id="f", port=5, endpoint="gone"),
    )
    assert wanted(*others) == alone()


def test_a_port_belongs_to_who_wrote_last() -> None:
    dead = replace(REPLICA, replica_id="dead", at=90.0)
    heir = replace(REPLICA, replica_id="heir", endpoint="other")
    assert wanted(heir, dead) == wanted(dead, heir) == alone()
    by_grpc = replace(REPLICA, replica_id="heir", port=5, grpc_port=REPLICA.port)
    assert wanted(by_grpc, dead) == {"flights-blue": [("10.0.0.1", 5)], "flights-blue-grpc": [("10.0.0.1", 29001)]}


@given(st.lists(ADDRESSES, max_size=6))
def test_places_hold_who_is_wanted_and_nobody_moves(rounds: list[list[Address]]) -> None:
    places: dict[int, Address] = {}
    for now in rounds:
        after = assign_places(places, now, num_places=6)
        assert len(set(after.values())) == len(after) == min(len(now), 6)
        assert set(after.values()) <= set(now)
        assert all(1 <= number <= 6 for number in after)
        stayed = {number: address for number, address in places.items() if address in now}
        assert stayed.items() <= after.items()
        places = after


def test_commands_tell_the_difference_only() -> None:
    before = {1: ("h", 1), 2: ("h", 2)}
    assert place_commands("e-blue", before, before, num_places=3) == []
    assert place_commands("e-blue", before, {2: ("h", 2), 3: ("h", 3)}, num_places=3) == [
        "set server e-blue/replica1 state maint",
        "set server e-blue/replica3 addr h port 3",
        "set server e-blue/replica3 state ready",
    ]


def test_from_the_unknown_every_place_is_told() -> None:
    commands = place_commands("e-blue", None, {2: ("h", 2)}, num_places=3)
    assert commands == [
        "set server e-blue/replica1 state maint",
        "set server e-blue/replica2 addr h port 2",
        "set server e-blue/replica2 state ready",
        "set server e-blue/replica3 state maint",
    ]


def test_places_double_when_they_are_too_few_and_never_get_fewer() -> None:
    def counted(num_replicas: int, declared: int | None = None) -> int:
        wanted = {"e-blue": [("h", port) for port in range(num_replicas)]}
        return count_places(wanted, {} if declared is None else {"e-blue": declared})["e-blue"]

    assert [counted(number) for number in (0, 4, 5, 9, 33, 100)] == [4, 4, 8, 16, 32, 32]
    assert [counted(number, 8) for number in (0, 8, 9)] == [8, 8, 16]


class Told(EdgeProcess):
    """Keeps what it was told instead of telling anybody."""

    def __init__(self) -> None:
        self.commands: list[str] = []
        self.refuses = False

    def tell(self, commands: Sequence[str]) -> None:
        if self.refuses:
            raise TealError("refused")
        self.commands = list(commands)


def test_a_slot_that_outgrows_its_places_asks_for_a_configuration() -> None:
    placement, process = Placement(), Told()
    replicas = [replace(REPLICA, replica_id=str(port), port=port) for port in range(1, 6)]
    placement.want([ENDPOINT], replicas[:4], alive_since=50.0)
    assert not placement.is_short
    placement.declare(is_new_worker=True)
    placement.tell(process)
    assert len(process.commands) == 8
    placement.want([ENDPOINT], replicas, alive_since=50.0)
    assert (placement.is_short, placement.num_places["flights-blue"]) == (True, 8)
    placement.declare(is_new_worker=True)
    placement.tell(process)
    assert not placement.is_short
    assert len(process.commands) == 10, "a new worker is told of all"
    assert len(placement.told()["flights-blue"]) == 5


def test_after_a_refusal_everything_is_told_again() -> None:
    placement, process = Placement(), Told()
    placement.want([ENDPOINT], [REPLICA], alive_since=50.0)
    placement.declare(is_new_worker=True)
    process.refuses = True
    with pytest.raises(TealError):
        placement.tell(process)
    process.refuses = False
    placement.tell(process)
    assert len(process.commands) == 2 + 3 + 4, "every place of both backends"
    placement.tell(process)
    placement.want([ENDPOINT], [], alive_since=50.0)
    placement.tell(process)
    assert process.commands == ["set server flights-blue/replica1 state maint"]


@given(st.lists(st.sampled_from(["", "No such server.", "IP changed from 'a' to 'b'"])))
def test_answers_to_many_commands_are_told_apart(answers: list[str]) -> None:
    text = "".join(f"{answer}\n\n" if answer else "\n" for answer in answers)
    assert split_answers(text) == answers
