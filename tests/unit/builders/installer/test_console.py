from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.builders.installer import console as module
from pipeline.builders.installer.console import Console, plain
from pipeline.core.secrets import Secrets


def mask(text: str) -> str:
    return text.replace("s3cret", "****")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b(0lqqk\x1b(B", "lqqk"),
        ("a\x00b\x08c\x9bd", "abcd"),
        ("\x1b", ""),
        ("tab\there", "tab\there"),
    ],
)
def test_no_terminal_sequence_survives(text: str, shown: str) -> None:
    assert plain(text) == shown


def test_it_is_followed_from_the_first_byte(tmp_path: Path) -> None:
    raw, log = tmp_path / "raw", tmp_path / "log"
    with Console(raw, log, mask) as console:
        assert console.poll() == []
        raw.write_bytes(b"one\r\ntwo s3c")
        assert console.poll() == ["one"]
        with raw.open("ab") as file:
            file.write(b"ret\nthree")
        assert console.poll() == ["two s3cret"]
        assert console.finish() == ["three"]
    assert log.read_text() == "one\ntwo ****\nthree\n"


def test_progress_by_carriage_return_is_lines(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    with Console(raw, tmp_path / "log", mask) as console:
        raw.write_bytes(b"10%\r20%\r")
        assert console.poll() == ["10%"]
        with raw.open("ab") as file:
            file.write(b"\ndone\n")
        assert console.poll() == ["20%", "done"]


def test_a_moved_cursor_ends_a_line(tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(b"Loading ... 1%\x1b[H\x1b[7mclock\x1b[10;38H\x1b[0m... 10%")
    with Console(tmp_path / "raw", tmp_path / "log", mask) as console:
        assert console.poll() == ["Loading ... 1%", "clock"]
        assert console.unfinished == "... 10%"


def test_undecodable_bytes_are_kept_visible(tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(b"\xff\xfe caf\xc3\xa9\n")
    with Console(tmp_path / "raw", tmp_path / "log", mask) as console:
        assert console.poll() == ["\ufffd\ufffd café"]


def test_an_endless_line_is_split_without_cutting_a_secret(tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(b"x" * 3838 + b"s3cret" + b"y" * 9000)
    with Console(tmp_path / "raw", tmp_path / "log", mask) as console:
        console.poll()
        console.finish()
    assert "s3cret" not in (tmp_path / "log").read_text().replace("\n", "")


def test_a_flood_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 1000)
    (tmp_path / "raw").write_bytes(b"line\n" * 1000)
    with Console(tmp_path / "raw", tmp_path / "log", mask) as console:
        assert len(console.poll()) == 200
        assert console.flooded
        assert console.poll() == []
    assert (tmp_path / "log").stat().st_size == 1000


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    chunks=st.lists(st.binary(max_size=40), max_size=12),
    words=st.lists(st.sampled_from([b"nonce-123", b"\n", b"\r\n", b"\xc3", b"\x1b["]), max_size=12),
)
def test_lines_do_not_depend_on_how_the_bytes_arrive(
    chunks: list[bytes], words: list[bytes], tmp_path: Path
) -> None:
    pieces = [*chunks, *words]
    raw = tmp_path / "raw"
    raw.write_bytes(b"")
    gradual: list[str] = []
    secrets = Secrets()
    secrets.add("nonce-123")
    with Console(raw, tmp_path / "log", secrets.mask) as console:
        for piece in pieces:
            with raw.open("ab") as file:
                file.write(piece)
            gradual += console.poll()
        gradual += console.finish()
    assert "nonce-123" not in (tmp_path / "log").read_text()
    with Console(raw, tmp_path / "log2", secrets.mask) as console:
        assert console.poll() + console.finish() == gradual
