"""The editor's own memory of a guest is true to its edits, and asks the backend once."""

from __future__ import annotations

from pipeline.guest.access.editor import Edit, Editor
from tests.fixtures.memory_guest import MemoryGuest


class Counting(MemoryGuest):
    """Counts listings and readings: each may cost another backend a run of a program."""

    asked = 0

    def _list(self, real: str) -> list[str]:
        self.asked += 1
        return super()._list(real)

    def _read(self, real: str, size: int) -> bytes:
        self.asked += 1
        return super()._read(real, size)


def test_listings_follow_the_edits() -> None:
    guest = Counting({"/etc/a": "1", "/etc/d/x": "2", "/link": {"link": "etc"}})
    editor = Editor(guest)
    assert editor.names("/etc") == ["a", "d"]
    editor.write("/link/b", "3")
    editor.link("b", "/etc/c")
    editor.make_directories("/etc/e/f")
    assert editor.names("/etc/d") == ["x"]
    editor.remove("/etc/d")
    editor.remove("/link/a")
    guest.asked = 0
    assert editor.names("/link") == ["b", "c", "e"]
    assert guest.asked == 0
    assert editor.names("/etc/d") == []
    assert sorted(guest.names("/etc")) == editor.names("/etc")


def test_texts_follow_the_edits() -> None:
    guest = Counting({"/etc/a": "1", "/etc/b": {"link": "a"}, "/etc/c": "9"})
    editor = Editor(guest)
    editor.write("/etc/b", "2")
    guest.asked = 0
    assert editor.text("/etc/a") == editor.text("/etc/b") == "2"
    assert guest.asked == 0
    editor.empty("/etc/a")
    assert editor.text("/etc/b") == ""
    editor.link("c", "/etc/b")
    assert editor.text("/etc/b") == "9"
    editor.remove("/etc/c")
    assert editor.text("/etc/b") == ""


def test_an_emptied_file_keeps_its_owner_and_tells_nothing() -> None:
    guest = MemoryGuest({"/log": b"SECRET" * (1 << 20)})
    guest.chown("/log", 3, 4)
    guest.chmod("/log", 0o660)
    editor = Editor(guest)
    editor.empty("/log")
    editor.empty("/log")
    editor.empty("/none")
    status = guest.nodes["/log"].status
    assert (status.size, status.mode, status.uid, status.gid) == (0, 0o660, 3, 4)
    assert editor.edits == [Edit("/log", "emptied")]


def test_large_files_are_no_configuration() -> None:
    editor = Editor(MemoryGuest({"/a": "x" * (2 << 20), "/b": "y"}))
    assert editor.small_text("/a") == editor.small_text("/none") == ""
    assert editor.small_text("/b") == "y"
