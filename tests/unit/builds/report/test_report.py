"""The report's parts and its whole page, without a browser."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import UndefinedError
from markupsafe import Markup

from pipeline.builds import history, registrations
from pipeline.builds.manifest import (
    CustomizationRecord,
    EditRecord,
    RecipeRecord,
    StepRecord,
    read_manifest,
)
from pipeline.builds.report import write_report
from pipeline.builds.report.evidence import read_console, read_picture
from pipeline.builds.report.facts import State, Verdict, read_facts
from pipeline.builds.report.page import environment, fragment
from pipeline.builds.report.timeline import bars, chart
from pipeline.builds.report.treemap import (
    Box,
    Node,
    by_directory,
    by_package,
    cells,
    notable,
    squarify,
)
from pipeline.core.checks import Assertion, CheckReport
from pipeline.core.errors import InputError
from pipeline.core.image import Registration
from pipeline.core.resources import PROJECT
from pipeline.core.text import human_seconds
from pipeline.guest.inventory import Inventory, Package
from tests.fixtures.finished import entry, finished_build, png, small_inventory, with_disk

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&\x1b[31m\u202e\udcff"


class Elements(HTMLParser):
    """Elements by name with their attributes, and all text."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((name, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.text += data


def elements(page: str) -> Elements:
    parser = Elements()
    parser.feed(page)
    return parser


def draw(root: Node, label: str) -> str:
    return fragment("treemap", cells=cells(root), label=label)


@given(st.text())
def test_text_comes_back_as_text(text: str) -> None:
    markup = environment().from_string('<p title="{{ text }}">{{ text }}</p>').render(text=text)
    page = elements(markup)
    assert [name for name, _ in page.found] == ["p"]
    assert list(page.found[0][1]) == ["title"]
    assert "<" not in markup.removeprefix("<p ").removesuffix("</p>")


def test_only_markup_passes_unescaped() -> None:
    render = environment().from_string("{{ one }}{{ other }}").render
    assert render(one=Markup("<b>x</b>"), other="<i>\x1b") == "<b>x</b>&lt;i&gt;\\x1b"
    with pytest.raises(UndefinedError):
        render(one="")


def test_no_template_turns_the_escaping_off() -> None:
    templates = sorted(PROJECT.glob("templates/report/*.j2"))
    assert len(templates) > 10
    for path in templates:
        assert not re.search(r"\|\s*safe\b|autoescape", path.read_text()), path


@given(st.lists(st.floats(1, 1e9), min_size=1, max_size=60))
def test_boxes_fill_the_map_and_do_not_overlap(sizes: list[float]) -> None:
    sizes.sort(reverse=True)
    boxes = squarify(sizes, Box(0, 0, 400, 300))
    area = 400 * 300
    assert len(boxes) == len(sizes)
    for size, box in zip(sizes, boxes, strict=True):
        assert box.width * box.height == pytest.approx(area * size / sum(sizes), rel=1e-6)
        assert box.x >= -1e-6
        assert box.y >= -1e-6
        assert box.x + box.width <= 400 + 1e-6
        assert box.y + box.height <= 300 + 1e-6
    for index, one in enumerate(boxes):
        for other in boxes[index + 1 :]:
            wide = min(one.x + one.width, other.x + other.width) - max(one.x, other.x)
            high = min(one.y + one.height, other.y + other.height) - max(one.y, other.y)
            assert min(wide, high) <= 1e-6


def test_the_trees_account_for_every_byte() -> None:
    listing = small_inventory()
    total = sum(e.allocated for e in listing.entries)
    directories, owners = by_directory(listing), by_package(listing)
    assert directories.bytes == owners.bytes == total
    assert [child.name for child in directories.children] == ["usr", "etc"]
    assert directories.children[0].children[0].path == "/usr/lib"
    assert [child.name for child in owners.children] == ["libc6", "bash", "no package's"]
    assert owners.children[1].path == "bash 5.2-1"
    assert [leaf.path for leaf in owners.children[1].children] == [
        "/usr/bin/bash",
        "/usr/share/doc/bash/README",
    ]


def test_a_directory_that_is_mostly_another_is_no_news() -> None:
    leaf = Node("f", "/usr/lib/f", 50)
    lib = Node("lib", "/usr/lib", 90, (leaf, Node("g", "/usr/lib/g", 40)))
    usr = Node("usr", "/usr", 100, (lib, Node("x", "/usr/x", 10)))
    root = Node("/", "/", 130, (usr, Node("etc", "/etc", 30, (Node("h", "/etc/h", 30),))))
    assert [node.path for node in notable(root, 9)] == ["/usr/lib", "/etc"]


def test_a_map_shows_small_things_together() -> None:
    big = Node("big", "/big", 10**9)
    dust = tuple(Node(f"d{i}", f"/d{i}", 10) for i in range(50))
    page = elements(draw(Node("/", "/", 10**9 + 500, (big, *dust)), "map"))
    rects = [attributes for name, attributes in page.found if name == "rect"]
    assert [r["class"] for r in rects] == ["c0", "rest"]
    assert "50 smaller" in page.text


def test_an_empty_map_is_empty() -> None:
    assert "rect" not in draw(Node("/", "/", 0), "map")


def test_stages_without_a_begin_follow_one_another() -> None:
    stages = {
        "install": StepRecord(seconds=10, reused=False),
        "image": StepRecord(seconds=5, reused=True),
        "verify": StepRecord(seconds=2, reused=False, begun=12.0),
    }
    assert [(bar.name, bar.begun) for bar in bars(stages)] == [
        ("install", 0.0),
        ("image", 10.0),
        ("verify", 12.0),
    ]


def test_the_check_of_the_whole_disk_is_a_stage_of_its_own() -> None:
    drawn = chart(
        {
            "image": StepRecord(seconds=5, reused=False),
            "extract": StepRecord(seconds=3, reused=False, begun=0.0),
            "verify-disk": StepRecord(seconds=60, reused=False, begun=5.0),
        }
    )
    assert drawn is not None
    assert {row.name: row.inner for row in drawn.rows} == {
        "image": False,
        "extract": True,
        "verify-disk": False,
    }


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.351, "0.35 s"), (9.9, "9.9 s"), (51.3, "51 s"), (60, "1 min"), (75.2, "1 min 15 s"),
     (3599.7, "1 h"), (7260, "2 h 1 min")],
)  # fmt: skip
def test_seconds_for_people(seconds: float, text: str) -> None:
    assert human_seconds(seconds) == text


def test_consoles_lose_control_sequences_and_overwritten_text(tmp_path: Path) -> None:
    log = tmp_path / "c.log"
    log.write_bytes(
        b"\x1b[2J\x1b[1;32mOK\x1b[0m done\r\n  5%\r 50%\r100%\n\x1b]0;title\x07x\xff\n\n\n\n\ny\n"
    )
    assert read_console(log).text == "OK done\n100%\nx\ufffd\n\ny"
    log.write_bytes(b"a" * 10 + b"b" * (256 << 10))
    assert read_console(log).skipped == 10
    assert set(read_console(log).text) == {"b"}


def test_pictures_are_embedded_whole_and_nothing_else_is(tmp_path: Path) -> None:
    path = tmp_path / "screen.png"
    path.write_bytes(png(5, 3))
    picture = read_picture(path)
    assert picture is not None
    assert picture.uri.startswith("data:image/png;base64,")
    assert base64.b64decode(picture.uri.partition(",")[2]) == png(5, 3)
    for wrong in (b"", b"GIF89a", b"<svg onload=x>", png(5, 3) + bytes(4 << 20)):
        path.write_bytes(wrong)
        assert read_picture(path) is None


def hostile_build(directory: Path) -> None:
    text = HOSTILE.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    finished_build(
        directory,
        listing=Inventory(
            entries=(entry(f"/{text}", 9000, owner=0), entry("/b", 100)),
            packages=(Package(text, text, text),),
            manager="dpkg",
            unknown="",
            used=1 << 20,
            size=2 << 20,
        ),
        evidence={
            "verify/first-console.log": text.encode() * 3,
            "verify/x'\"><script>.log": b"x",
            "commands.log": text.encode(),
        },
        recipe=RecipeRecord(name=text, description=text, digest="12" * 32),
        properties={text: text},
        customization=CustomizationRecord(
            backend=text,
            edits=(EditRecord(path=text, change=f"+{text}\n-{text}"),),
            removed=(text,),
            kept_mounts=(text,),
            relabel=text,
            warnings=(text,),
        ),
    )
    registrations.add_to_record(
        directory / registrations.FILE, Registration(text, text, text, text, text, True)
    )


def test_hostile_strings_stay_text(tmp_path: Path) -> None:
    hostile_build(tmp_path / "small")
    page = elements(write_report(tmp_path / "small").read_text())
    assert [name for name, _ in page.found if name == "script"] == ["script"]
    assert not [name for name, _ in page.found if name == "img"]
    for _, attributes in page.found:
        assert not [name for name in attributes if name.startswith("on")]
    assert "alert(2)" in page.text
    assert "\x1b" not in page.text
    assert "\u202e" not in page.text


def test_the_policy_lets_only_our_script_and_style_in(tmp_path: Path) -> None:
    finished_build(tmp_path / "small")
    text = write_report(tmp_path / "small").read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)
    assert policy is not None
    assert "default-src 'none'" in policy[1]
    assert len(re.findall(r"'sha256-[0-9A-Za-z+/=]{44}'", policy[1])) == 2
    assert "unsafe" not in policy[1]
    assert 'style="' not in text
    assert not re.search(r'(?:src|href)="(?!data:image/png;|#|\./)', text)


def test_the_page_says_what_the_build_is(tmp_path: Path) -> None:
    directory = tmp_path / "small"
    old = small_inventory()
    finished_build(
        directory,
        created="2026-11-20T05:40:00Z",
        recipe=RecipeRecord(name="small", description="A small system", digest="cd" * 32),
        listing=Inventory(
            entries=(*old.entries[:2], entry("/gone", 8192)),
            packages=(Package("bash", "5.1-1", "amd64"),),
            manager="dpkg",
            unknown="",
            used=old.used,
            size=old.size,
        ),
    )
    assert history.keep(directory) is not None
    finished_build(directory, evidence={"install/console.log": b"anaconda began\n"})
    text = elements(write_report(directory).read_text()).text
    for word in (
        "boots",
        "2.6.38.6-26.rc1.fc15.x86_64",
        "root=LABEL=uec-rootfs",
        read_manifest(directory).digests()["kernel"],
        "+LABEL=uec-rootfs / ext4",
        "anaconda began",
        "Compared with the build of 2026-11-20",
        "5.1-1",
        "/gone",
        "Not registered anywhere",
        "/dev/vda is /",
    ):
        assert word in text, word


def test_a_rebuild_of_the_same_inputs_is_not_compared_with_itself(tmp_path: Path) -> None:
    directory = tmp_path / "small"
    finished_build(directory)
    history.keep(directory)
    finished_build(directory, created="2026-11-22T05:40:00Z")
    assert read_facts(directory).comparison is None


def test_a_failed_or_skipped_boot_check_is_said(tmp_path: Path) -> None:
    manifest = finished_build(tmp_path / "small", checks=())
    assert "not boot-checked" in write_report(tmp_path / "small").read_text()
    assert manifest.checks == ()


FAILED = CheckReport(
    target="disk",
    artifacts={},
    passed=False,
    seconds_to_ssh=None,
    boot_seconds={"uefi": 31.0},
    assertions=(
        Assertion("boots under UEFI", False, "no shim"),
        Assertion("clean again", False, "", reached=False),
    ),
    console_lines=("BdsDxe: failed to load Boot0001",),
)
PASSED = replace(FAILED, passed=True, assertions=(), console_lines=())


def test_a_failed_check_of_the_whole_disk_is_the_headline(tmp_path: Path) -> None:
    directory = tmp_path / "small"
    evidence = {"verify-disk/uefi-console.log": b"Shell> \n"}
    with_disk(finished_build(directory, evidence=evidence), directory, FAILED)
    page = elements(write_report(directory).read_text())
    assert "boot check failed: whole disk" in page.text
    verdicts = [a["class"] for name, a in page.found if name == "span" and "class" in a]
    assert "verdict failed" in verdicts
    assert "verdict passed" not in verdicts
    for word in (
        "boots under UEFI",
        "no shim",
        "not reached",
        "BdsDxe: failed to load Boot0001",
        "uefi-console.log",
        "Shell>",
        "/dev/vda is /",
        "uefi 31 s",
    ):
        assert word in page.text, word


@pytest.mark.parametrize(
    ("three_files", "disk", "state", "text"),
    [
        (PASSED, PASSED, "passed", "boots"),
        (FAILED, PASSED, "failed", "boot check failed: triple"),
        (FAILED, FAILED, "failed", "boot check failed: triple and whole disk"),
        (None, FAILED, "failed", "boot check failed: whole disk"),
        (PASSED, None, "skipped", "boots; whole disk not boot-checked"),
        (None, None, "skipped", "not boot-checked"),
    ],
)
def test_the_headline_is_the_worst_check(
    three_files: CheckReport | None,
    disk: CheckReport | None,
    state: State,
    text: str,
    tmp_path: Path,
) -> None:
    checks = (replace(three_files, target="triple"),) if three_files else ()
    with_disk(finished_build(tmp_path, checks=checks), tmp_path, disk)
    assert read_facts(tmp_path).verdict == Verdict(state, text)


def test_there_is_no_report_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="never finished"):
        write_report(tmp_path)
