"""The document of what was tried: every row that is tried has its place in it, and it parses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.core.resources import PROJECT
from tests.compatibility import filesystems, partitions, recorded
from tests.compatibility.attempt import Case
from tests.compatibility.document import DOCUMENT, OUTCOMES, TITLES, Row, rows_of, save, table
from tests.compatibility.guests import name
from tests.compatibility.recorded import GUESTS, LOCKED, NO_RECORD, SERVERS, read, record
from tests.fixtures.disks import LAYOUTS
from tests.integration.test_debian_releases import MATRIX


@pytest.fixture(scope="module")
def written() -> dict[str, list[list[str]]]:
    return rows_of(DOCUMENT.read_text())


@pytest.mark.parametrize(
    ("section", "cases"),
    [("filesystems", filesystems.cases()), ("partitions", partitions.cases())],
    ids=["filesystems", "partitions"],
)
def test_every_row_is_in_the_document(
    section: str, cases: list[Case], written: dict[str, list[list[str]]]
) -> None:
    rows = written[TITLES[section]]
    assert [row[0] for row in rows] == [case.name for case in cases]
    for row, case in zip(rows, cases, strict=True):
        assert row[2] in OUTCOMES, row
        assert row[3], row
        if row[2] == OUTCOMES[1]:
            assert case.named, f"{case.name}: nothing says that it is unsupported"


def test_every_layout_and_feature_is_tried() -> None:
    names = [case.name for case in [*filesystems.cases(), *partitions.cases()]]
    assert len(set(names)) == len(names)
    tried = set(names)
    assert {f"LAYOUTS: {layout}" for layout in LAYOUTS} <= tried
    for rows in (
        *(
            filesystems.EXT,
            filesystems.INLINE,
            filesystems.XFS,
            filesystems.VERITY,
            filesystems.NEWER_XFS,
        ),
        *(filesystems.OTHERS, partitions.TABLES, partitions.LVM, partitions.LVM_REFUSED),
        *(partitions.CONVERTED, partitions.FORMATS_REFUSED),
    ):
        assert set(rows) <= tried


def test_guests_and_servers_are_in_the_document(written: dict[str, list[list[str]]]) -> None:
    assert [row[0] for row in written[TITLES["guests"]]] == [each.what for each in read(GUESTS)]
    assert [row[0] for row in written["By hand"]] == [each.what for each in read(SERVERS)]
    locked = {row[0]: row for row in written[TITLES["servers"]]}
    assert set(locked) == {each.what for each in LOCKED}
    for each in LOCKED:
        version = locked[each.what][1].split()[0]
        text = (PROJECT / "setup" / each.lock).read_text()
        assert f"\n{each.package}=={version} " in text, (
            "run `./invoke compatibility --only=servers`"
        )
        for test in each.tests:
            assert (PROJECT / "tests" / test).exists(), test


def test_every_flavour_that_is_booted_has_a_record() -> None:
    known = {each.what for each in read(GUESTS)}
    assert {name(flavour) for flavour in MATRIX} <= known
    for each in [*read(GUESTS), *read(SERVERS)]:
        assert (each.outcome == NO_RECORD) is (each.date == "")


def test_the_document_names_its_commands() -> None:
    text = DOCUMENT.read_text()
    for section in TITLES:
        assert f"`./invoke compatibility --only={section}` (not run here: " in text


def test_a_section_replaces_itself_and_nothing_else(tmp_path: Path) -> None:
    document = tmp_path / "compatibility.md"
    rows = [Row("a | b", "mke2fs -O x", OUTCOMES[0], "x"), Row("c", "", OUTCOMES[2], "y\n z")]
    save("servers", "kept\n\n### By hand\n\n| what |\n| --- |\n| s |\n", document)
    save("filesystems", table(rows), document)
    before = document.read_text()
    save("filesystems", table(rows).replace("y z", "new"), document)
    assert document.read_text() == before.replace("y z", "new")
    parsed = rows_of(before)
    assert parsed[TITLES["filesystems"]] == [
        ["a \\| b", "`mke2fs -O x`", "works", "x"],
        ["c", "", "**fails**", "y z"],
    ]
    assert parsed["By hand"] == [["s"]]
    assert "1 works, 1 **fails**." in before


def test_a_broken_table_does_not_parse() -> None:
    with pytest.raises(ValueError, match="1 cells where the head has 2"):
        rows_of("# x\n| a | b |\n| --- | --- |\n| c |\n")


def test_a_record_takes_the_place_of_its_own_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "guests.json"
    path.write_text("[]\n")
    record("guest", "1", "test", "works", "", path)
    assert json.loads(path.read_text()) == []
    monkeypatch.setenv("RECORD_GUESTS", "1")
    for version, guest in (("1", "guest"), ("1", "other"), ("2", "guest")):
        record(guest, version, "test", "works", "", path)
    assert [(each.what, each.versions) for each in read(path)] == [("other", "1"), ("guest", "2")]
    assert recorded.read(path)[0].date >= "2026"
