"""The terminal's view of tasks that run side by side."""

from __future__ import annotations

import io
import re
import threading
import time

import pytest

from pipeline.progress import PlainProgress, TerminalProgress


def shown(stream: io.StringIO) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())


def test_tasks_side_by_side_and_in_each_other_share_one_display() -> None:
    stream = io.StringIO()
    show = TerminalProgress(stream)
    together = threading.Barrier(4)

    def work(name: str) -> None:
        with show.task(name, total=4 << 20) as meter:
            together.wait(timeout=30)
            for _ in range(4):
                meter.advance(1 << 20)
            with show.task(f"{name} waits", unit="steps") as inner:
                inner.advance(1)
                together.wait(timeout=30)
            show.say(f"{name} said")

    threads = [threading.Thread(target=work, args=(f"cloud {n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    text = shown(stream)
    for n in range(4):
        assert f"cloud {n} said" in text
        assert re.search(rf"cloud {n}: \d+\.\d s", text)
        assert re.search(rf"cloud {n} waits: \d+\.\d s", text)


def test_a_bar_shows_figures_and_escapes_what_it_is_told() -> None:
    stream = io.StringIO()
    show = TerminalProgress(stream)
    with show.task("copy", total=4096) as meter:
        meter.advance(1024)
        meter.describe("phase\x1b]0;evil\x07 [red]")
        show.warn("low [space]")
        until = time.monotonic() + 30  # rich draws ten times a second, on an idle host
        while "1.0 KiB of 4.0 KiB" not in shown(stream) and time.monotonic() < until:
            time.sleep(0.02)
    text = shown(stream)
    assert "1.0 KiB of 4.0 KiB" in text
    assert "evil\\x07 [red]" in text
    assert "warning: low [space]" in text
    assert "\x07" not in stream.getvalue()


def test_a_task_that_fails_leaves_no_display_and_no_success() -> None:
    stream = io.StringIO()
    show = TerminalProgress(stream)
    with pytest.raises(ValueError, match="x"), show.task("doomed"):
        int("x")
    assert not re.search(r"doomed: \d", shown(stream))
    with show.task("next"):
        pass
    assert re.search(r"next: \d", shown(stream))


def test_plain_lines_tell_what_is_left() -> None:
    stream = io.StringIO()
    show = PlainProgress(stream, interval=0)
    with show.task("send", total=2048) as meter:
        meter.advance(2048)
    assert "send: 2.0 KiB of 2.0 KiB, 0 s left" in stream.getvalue()
    with show.task("boots", total=4, unit="steps") as meter:
        meter.advance(1)
    assert "boots: 1 of 4" in stream.getvalue()
