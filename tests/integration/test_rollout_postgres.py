"""Rollouts on PostgreSQL: a controller that dies at every write, and a database that goes away."""

from collections.abc import Iterator

import pytest

from runtime.core.errors import UnreachableError
from tests.postgres import PostgresServer, find_postgres, postgres_server
from tests.rollout_kills import SCENARIOS, check_every_kill
from tests.rollout_world import Site

pytestmark = pytest.mark.skipif(find_postgres() is None, reason="no PostgreSQL server is installed on this machine")


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.mark.parametrize("name", ["promoted", "rolled back by the analysis"])
def test_killed_before_any_write_another_controller_comes_to_the_same_end(server: PostgresServer, name: str) -> None:
    check_every_kill(server.create_database, SCENARIOS[name])


def test_a_database_that_is_away_holds_the_rollout_and_it_goes_on_after(server: PostgresServer) -> None:
    site = Site(server.create_database())
    site.start()
    site.run(4)
    before = site.rollout
    server.stop()
    for _ in range(3):
        with pytest.raises(UnreachableError):
            site.controller.advance()
    server.start()
    site.world.at += 60
    assert site.rollout == before
    site.run(120, until="Succeeded")
    assert site.store.verify_audit().faults == []
    site.store.close()
