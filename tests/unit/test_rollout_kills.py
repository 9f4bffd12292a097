"""Every write and every commit of every way that a rollout goes, killed at in turn."""

import shutil
import tempfile
from pathlib import Path

import pytest

from runtime.store.rollouts import RolloutStore
from tests.rollout_kills import SCENARIOS, Moment, check_every_kill


@pytest.mark.parametrize("moment", ["write", "commit"])
@pytest.mark.parametrize("name", sorted(SCENARIOS))
def test_killed_at_any_write_it_comes_to_the_same_end(tmp_path: Path, name: str, moment: Moment) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    store = RolloutStore(f"sqlite:///{empty}/control.db")
    store.create_schema()
    store.close()

    def new_place() -> Path:
        return Path(shutil.copytree(empty, tempfile.mkdtemp(dir=tmp_path), dirs_exist_ok=True))

    check_every_kill(new_place, SCENARIOS[name], moment)
