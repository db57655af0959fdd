"""The report in a real browser: no errors, no requests, hostile strings inert, maps that zoom."""

from __future__ import annotations

import html
import json
import re
import subprocess
from pathlib import Path

import pytest

from pipeline.builds.report import write_report
from tests.fixtures.finished import finished_build, png, png_size
from tests.unit.builds.report.test_report import elements, hostile_build

pytestmark = pytest.mark.integration

# A browser's own start-up on a busy host, not the page, is what takes long.
SECONDS = 180
# Appended to a copy of the page whose policy lets it in: a user's click, then what came of it.
CLICK = """
<script>
  const map = document.querySelectorAll("svg.map")[0];
  const group = map.querySelector("rect.open");
  const number = (rect, name) => Number(rect.getAttribute(name));
  const area = (rect) => number(rect, "width") * number(rect, "height");
  const areas = () => [...map.querySelectorAll("rect")].map(area);
  const names = ["x", "y", "width", "height"];
  const shape = () => names.map((name) => Math.round(number(group, name)));
  const before = [shape(), areas()];
  const place = group.getBoundingClientRect();
  map.dispatchEvent(new MouseEvent("click", { clientX: place.x + 4, clientY: place.y + 4 }));
  const near = [shape(), areas()];
  document.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape" }));
  document.title = JSON.stringify({ before, near, after: [shape(), areas()] });
</script>
"""


def browse(page: Path, profile: Path, *options: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [
            *("chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"),
            *("--enable-logging=stderr", f"--user-data-dir={profile}", "--window-size=1280,1400"),
            *(*options, page.as_uri()),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=True,
    )
    complaints = "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)
    assert not complaints, complaints
    return done


def test_no_console_errors_and_a_picture_with_content(tmp_path: Path) -> None:
    directory = tmp_path / "small"
    finished_build(directory, evidence={"verify/first-screen.png": png(720, 400)})
    page = write_report(directory)
    for mode in ("0", "1"):
        picture = tmp_path / f"page{mode}.png"
        browse(
            page,
            tmp_path / "profile",
            f"--screenshot={picture}",
            f"--blink-settings=preferredColorScheme={mode}",
        )
        width, height, rows = png_size(picture.read_bytes())
        assert (width, height) == (1280, 1400)
        assert len(set(rows)) > 32
    assert (tmp_path / "page0.png").read_bytes() != (tmp_path / "page1.png").read_bytes()


def test_the_console_is_heard(tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text("<!doctype html><title>x</title><script>nothing.at.all()</script>")
    with pytest.raises(AssertionError, match="CONSOLE"):
        browse(page, tmp_path / "profile", "--dump-dom")


def test_hostile_strings_do_nothing(tmp_path: Path) -> None:
    hostile_build(tmp_path / "small")
    page = write_report(tmp_path / "small")
    dom = elements(browse(page, tmp_path / "profile", "--dump-dom").stdout)
    assert [name for name, _ in dom.found if name in ("script", "img", "iframe")] == ["script"]
    assert "alert(2)" in dom.text


def test_the_policy_stops_what_escaping_might_miss(tmp_path: Path) -> None:
    finished_build(tmp_path / "small")
    page = write_report(tmp_path / "small")
    inserted = '<script>document.title = "run"</script><img src="x" onerror="document.title=1">'
    page.write_text(page.read_text().replace("<main>", f"<main>{inserted}"))
    with pytest.raises(AssertionError, match="Content Security Policy"):
        browse(page, tmp_path / "profile", "--dump-dom")


def test_maps_zoom_in_and_out(tmp_path: Path) -> None:
    finished_build(tmp_path / "small")
    page = write_report(tmp_path / "small")
    text = re.sub(r"script-src '[^']+'", "script-src 'unsafe-inline'", page.read_text())
    page.write_text(text.replace("</body>", f"{CLICK}</body>"))
    title = re.search(
        r"<title>(.*?)</title>", browse(page, tmp_path / "profile", "--dump-dom").stdout
    )
    assert title is not None
    seen = json.loads(html.unescape(title[1]))
    assert seen["after"] == seen["before"]
    shape, areas = seen["near"]
    assert shape == [0, 0, 1120, 520]
    grown = {round(new / old, 3) for new, old in zip(areas, seen["before"][1], strict=True) if old}
    assert len(grown) == 1


def test_it_prints(tmp_path: Path) -> None:
    finished_build(tmp_path / "small", evidence={"install/console.log": b"the last line\n"})
    paper = tmp_path / "page.pdf"
    browse(write_report(tmp_path / "small"), tmp_path / "profile", f"--print-to-pdf={paper}")
    assert paper.read_bytes().startswith(b"%PDF-")
