"""A finished rollout's certificate: what it says, and what it takes to notice that it was changed."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.config.schema import PathsConfig
from runtime.core.errors import ContractError, NotFoundError, TealError
from runtime.core.hashing import sha256_json
from runtime.rollout.certificate import certificate_path, find_faults, read_certificate, write_certificate
from runtime.rollout.controller import Controller
from runtime.rollout.page import render_page
from runtime.rollout.summary import share_interval, summarise
from tests.cluster_config import cluster_config
from tests.rollout_world import Site


@pytest.fixture
def paths(tmp_path: Path) -> PathsConfig:
    return cluster_config(tmp_path).paths


@pytest.fixture
def site(tmp_path: Path, paths: PathsConfig) -> Site:
    """A rollout that was rolled back, with its certificate."""
    site = Site(tmp_path)
    site.controller = Controller(
        site.store, site.world, holder="first", certify=lambda ended: write_certificate(site.store, paths, ended)
    )
    site.world.error_rate["green"] = 0.05
    site.start(reason="<b>v2</b>")
    site.run(60, until="RolledBack")
    site.run(1)
    assert site.rollout.certificate is not None
    return site


def test_it_says_what_was_sent_decided_and_by_whom(site: Site, paths: PathsConfig) -> None:
    certificate = read_certificate(paths, site.rollout.id)
    content = certificate.content
    assert (content["phase"], content["canary"]["model"], content["people"]) == (
        "RolledBack",
        "flights:2",
        ["ann", "teal-rollout"],
    )
    (step,) = content["steps"]
    assert step["counted"]["canary"]["errors"] > 0
    assert step["share_interval"][0] < 0.1 < step["share_interval"][1]
    assert step["verdict"]["outcome"] == "Failed"
    assert [row["what"] for row in content["decisions"]][:2] == ["rollout start", "rollout prepare"]
    assert find_faults(certificate, site.store, paths) == []
    assert (Path(paths.run) / "certificate_key").stat().st_mode & 0o777 == 0o600


def test_writing_it_again_writes_the_same(site: Site, paths: PathsConfig) -> None:
    assert write_certificate(site.store, paths, site.rollout) == read_certificate(paths, site.rollout.id).sha256
    rows = [row for row in site.store.transitions() if row.action == "certificate"]
    site.store.record_certificate(site.rollout, "another", actor="x")
    assert [row for row in site.store.transitions() if row.action == "certificate"] == rows
    assert len(rows) == 1


def test_changed_content_another_signature_and_another_key_are_found(site: Site, paths: PathsConfig) -> None:
    certificate = read_certificate(paths, site.rollout.id)
    prettier = {**certificate.content, "phase": "Succeeded"}
    assert "its content was changed: the hash is another one" in find_faults(
        replace(certificate, content=prettier), site.store, paths
    )
    rehashed = replace(certificate, content=prettier, sha256=sha256_json(prettier))
    faults = find_faults(rehashed, site.store, paths)
    assert faults == [
        "its signature does not belong to its content",
        "the audit chain holds another hash for rollout 'flights-1'",
    ]
    (Path(paths.run) / "certificate_key").unlink()
    assert "another key" in find_faults(certificate, site.store, paths)[0]


def test_a_readable_key_and_a_broken_file_are_errors(site: Site, paths: PathsConfig) -> None:
    path = certificate_path(paths, site.rollout.id)
    path.write_text(json.dumps({"content": {}}))
    with pytest.raises(ContractError, match="is no certificate"):
        read_certificate(paths, site.rollout.id)
    with pytest.raises(NotFoundError, match="no certificate of rollout 'flights-9'"):
        read_certificate(paths, "flights-9")
    (Path(paths.run) / "certificate_key").chmod(0o644)
    with pytest.raises(TealError, match="can be read by others"):
        write_certificate(site.store, paths, site.rollout)


def test_the_page_escapes_what_people_wrote_and_draws_the_evidence(site: Site, paths: PathsConfig) -> None:
    page = render_page(summarise(site.store, site.rollout))
    assert "<b>v2</b>" not in page
    assert "&lt;b&gt;v2" in page
    assert "<path class=rollback" in page
    assert (
        "was rolled back by the analysis" in certificate_path(paths, site.rollout.id).with_suffix(".html").read_text()
    )


def test_the_interval_of_a_share_holds_it() -> None:
    low, high = share_interval(100, 1000)
    assert low == pytest.approx(0.0829, abs=1e-4)
    assert high == pytest.approx(0.1202, abs=1e-4)
    assert share_interval(0, 0) == (0.0, 1.0)


def test_a_certificate_that_cannot_be_written_stops_no_rollout(tmp_path: Path) -> None:
    def certify(_rollout: object) -> str:
        raise TealError("disk full")

    site = Site(tmp_path)
    site.controller = Controller(site.store, site.world, holder="first", certify=certify)
    site.world.error_rate["green"] = 0.05
    site.start()
    site.run(60, until="RolledBack")
    site.world.error_rate["green"] = 0.0
    site.start()
    site.run(4)
    assert (site.share, site.store.rollout("flights-1").certificate) == (1000, None)
