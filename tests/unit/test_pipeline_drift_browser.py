"""The drift page in a real browser: what it draws is there and visible, and nothing is complained of or fetched."""

import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from runtime.pipeline.drift_page import render_drift_page
from tests.unit.test_monitoring_watch import Site

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
PROBE = """<script>
addEventListener("error", event => document.body.dataset.error = event.message || "a resource");
addEventListener("load", () => {
  const seen = selector => [...document.querySelectorAll(selector)].filter(one => {
    const box = one.getBoundingClientRect();
    return box.width > 0 && box.height > 0;
  });
  const data = document.body.dataset;
  data.cells = seen("svg .cell").length;
  data.alarms = seen("svg .alarm").length;
  data.ridges = seen("svg .ridge").length;
  data.sections = seen("section h2").map(one => one.textContent).join("|");
  data.requests = performance.getEntriesByType("resource").length;
  data.widest = Math.max(...seen("main *").map(one => one.getBoundingClientRect().right));
  const labels = seen("svg").map(svg => [svg, [...svg.querySelectorAll("text")]]);
  data.cut = labels.flatMap(([svg, texts]) => texts.filter(text => {
    const box = text.getBBox();
    return box.x < -1 || box.x + box.width > svg.viewBox.baseVal.width + 1;
  })).map(text => text.textContent).join("|");
});
</script>"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


class _Body(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.data: dict[str, str] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag == "body":
            self.data = {name.removeprefix("data-"): value or "" for name, value in attributes}


def test_the_page_shows_its_marks_in_a_browser_that_has_nothing_to_complain_of(tmp_path: Path) -> None:
    site = Site(tmp_path / "monitor")
    site.run(40)
    site.wait(300)
    site.run(40, shift=0.7)
    site.run(5, slot="green", version=2)
    history = site.monitor.history("flights", level="minutes", number=50)
    page = render_drift_page(site.monitor.report(), {"flights": history})
    path = tmp_path / "drift.html"
    path.write_text(page.replace("</head>", f"{PROBE}</head>"))
    assert CHROMIUM is not None
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    command = [*flags, f"--user-data-dir={tmp_path}/profile", "--window-size=1100,1600", "--enable-logging=stderr"]
    done = subprocess.run(
        [CHROMIUM, *command, "--dump-dom", path.as_uri()], capture_output=True, text=True, check=True, timeout=60
    )
    data = _Body(done.stdout).data
    assert "CONSOLE" not in done.stderr
    assert "error" not in data
    assert data["requests"] == "0"
    assert data["sections"].split("|")[:3] == ["Features over time", "Culprits", "Histograms over time"]
    moved = [stretch for stretch in history if stretch["is_alarm"]]
    assert int(data["alarms"]) == len(moved) > 0
    assert int(data["cells"]) >= len(moved)
    assert int(data["ridges"]) >= 2 * len(moved)  # of both slots
    assert data["cut"] == ""
    assert float(data["widest"]) <= 1100
