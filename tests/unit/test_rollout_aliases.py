"""MLflow follows a promotion, however often it refuses, and never goes back to an old champion."""

from pathlib import Path

from runtime.rollout.aliases import CONSUMER, AliasProjection
from tests.rollout_world import ENDPOINT, Site


class Registry:
    def __init__(self) -> None:
        self.is_locked = False
        self.shown: list[tuple[str, str, int]] = []

    def show_alias(self, name: str, alias: str, version: int) -> None:
        if self.is_locked:
            raise RuntimeError("database is locked")
        self.shown.append((name, alias, version))


def test_a_promotion_reaches_mlflow_once_it_listens(tmp_path: Path) -> None:
    site, registry = Site(tmp_path), Registry()
    projection = AliasProjection(site.store, registry.show_alias)
    projection.subscribe()
    projection.subscribe()
    site.start()
    site.run(120, until="Succeeded")
    registry.is_locked = True
    now = site.world.at
    assert projection.deliver_due(now) == 0
    assert site.store.backlog() == {CONSUMER: 1}
    registry.is_locked = False
    assert projection.deliver_due(now) == 0  # not yet again
    assert projection.deliver_due(now + 3) == 1
    assert registry.shown == [(ENDPOINT, "champion", 2)]
    assert (projection.deliver_due(now + 600), site.store.backlog()) == (0, {})


def test_a_message_that_comes_late_shows_who_is_champion_now(tmp_path: Path) -> None:
    site, registry = Site(tmp_path), Registry()
    projection = AliasProjection(site.store, registry.show_alias)
    projection.subscribe()
    site.start()
    site.run(120, until="Succeeded")
    site.store.set_alias(ENDPOINT, "champion", 1)
    assert projection.deliver_due(site.world.at) == 1
    assert registry.shown == [(ENDPOINT, "champion", 1)]


def test_a_rollback_says_nothing(tmp_path: Path) -> None:
    site, registry = Site(tmp_path), Registry()
    AliasProjection(site.store, registry.show_alias).subscribe()
    site.world.error_rate["green"] = 0.1
    site.start()
    site.run(60, until="RolledBack")
    assert site.store.backlog() == {}
