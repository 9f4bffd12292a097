"""The map that holds the split, and the names of slots in HAProxy. One string an endpoint, changed at run time."""

from runtime.store.records import SLOTS, EndpointState


def app_name(endpoint: str, slot: str) -> str:
    """Name of a slot's Serve application, of its route and of its backend."""
    return f"{endpoint}-{slot}"


def grpc_app(app: str) -> str:
    """Name of the backend with the gRPC ports of a slot's replicas."""
    return f"{app}-grpc"


def replicas_app(app: str) -> str:
    """Name of the backend that nobody is sent to: it has a slot's replicas and nothing else, so that they count."""
    return f"{app}-replicas"


def share_value(endpoint: EndpointState) -> str:
    """What the map holds: `green share:generation`, one string because one `set map` must change both."""
    return f"{endpoint.green_share}:{endpoint.generation}"


def filled_slots(endpoint: EndpointState) -> list[str]:
    return [slot for slot in SLOTS if endpoint.slot(slot).model is not None]
