"""The replicas that one running HAProxy was told of, and how many places it was declared with. No store, no Ray."""

from collections.abc import Iterable, Mapping, Sequence

from runtime.serving.edge_process import EdgeProcess
from runtime.serving.edge_servers import (
    Address,
    Places,
    assign_places,
    count_places,
    place_commands,
    wanted_addresses,
)
from runtime.store.records import EndpointState, Replica


class Placement:
    """Told replicas are kept, so that only what changed is told."""

    def __init__(self) -> None:
        self.num_places: dict[str, int] = {}
        """Backend to how many places it needs; what a configuration is to be rendered with."""
        self._declared: dict[str, int] = {}
        self._wanted: Mapping[str, Sequence[Address]] = {}
        self._told: dict[str, Places] = {}
        self._is_unknown = False

    @property
    def is_short(self) -> bool:
        """Whether some backend has fewer places than it needs: a new configuration has to come first."""
        return any(number > self._declared.get(app, number) for app, number in self.num_places.items())

    def want(self, endpoints: Iterable[EndpointState], replicas: Iterable[Replica], *, alive_since: float) -> None:
        self._wanted = wanted_addresses(endpoints, replicas, alive_since=alive_since)
        self.num_places = count_places(self._wanted, self._declared)

    def declare(self, *, is_new_worker: bool) -> None:
        """HAProxy now runs with these places; a new worker knows of no replica."""
        self._declared = dict(self.num_places)
        if is_new_worker:
            self._told.clear()

    def distrust(self) -> None:
        """HAProxy may have been told other things: by a loop before this one, or by a call that failed."""
        self._is_unknown = True

    def tell(self, process: EdgeProcess) -> None:
        """Tell HAProxy what it does not know yet. TealError or OSError if it refuses or is not there."""
        commands: list[str] = []
        after: dict[str, Places] = {}
        for app, addresses in self._wanted.items():
            before, number = self._told.get(app, {}), self.num_places[app]
            after[app] = assign_places(before, addresses, num_places=number)
            commands += place_commands(app, None if self._is_unknown else before, after[app], num_places=number)
        try:
            if commands:
                process.tell(commands)
        except BaseException:
            self._is_unknown = True
            raise
        self._told = after
        self._is_unknown = False

    def told(self) -> dict[str, list[str]]:
        """Backend to the addresses of its replicas."""
        return {app: [f"{host}:{port}" for host, port in places.values()] for app, places in sorted(self._told.items())}
