"""The terminal's view of tasks that run side by side."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.builders.installer.forecast import Forecast, read_forecast
from pipeline.cli.console import JsonLinesSink, PlainProgress, TerminalProgress
from pipeline.core.events import EventStream, QuietProgress, tell
from pipeline.core.resources import PROJECT


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


def test_a_silent_task_is_heard_of_now_and_then() -> None:
    stream = io.StringIO()
    show = PlainProgress(stream, interval=0.01)
    deadline = time.monotonic() + 30
    with show.task("boot check", total=4, unit="steps"):
        while "after" not in stream.getvalue() and time.monotonic() < deadline:
            time.sleep(0.01)
    assert re.search(r"^boot check: after [\d.]+ s$", stream.getvalue(), re.MULTILINE)
    # It is silent once the task has ended.
    told = len(stream.getvalue())
    time.sleep(0.05)
    assert len(stream.getvalue()) == told


def test_a_forecast_is_shown_as_a_share() -> None:
    stream = io.StringIO()
    with PlainProgress(stream, interval=0).task("install", 80, "seconds") as meter:
        meter.advance(20)
        meter.advance(60)
    lines = stream.getvalue().splitlines()
    assert re.fullmatch(r"install: 25 %, about [\d.]+ s left", lines[1])
    assert lines[2].startswith("install: 99 %, about 0 s left")  # never done before it is


def test_events_are_json_lines_for_programs() -> None:
    stream = io.StringIO()
    show = EventStream(JsonLinesSink(stream, interval=0), mask=lambda t: t.replace("hunter2", "*"))
    show.say("hello hunter2")
    show.warn("low space")
    with show.task("send", total=8) as meter, show.task("boots", unit="steps") as other:
        meter.advance(4)
        meter.describe("send the rest")
        other.advance(1)
    with pytest.raises(ValueError, match="x"), show.task("doomed"):
        int("x")
    records = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert records[0] == {"event": "say", "text": "hello *"}
    assert [(r["event"], r["text"]) for r in records[1:]] == [
        ("warn", "low space"),
        ("begin", "send"),
        ("begin", "boots"),
        ("advance", "send"),
        ("describe", "send the rest"),
        ("advance", "boots"),
        ("end", "boots"),
        ("end", "send the rest"),
        ("begin", "doomed"),
        ("end", "doomed"),
    ]
    send = [r for r in records if r.get("task") == 1]
    assert [(r["done"], r["total"], r["unit"]) for r in send[:2]] == [
        (0, 8, "bytes"),
        (4, 8, "bytes"),
    ]
    assert [r["failed"] for r in records if r["event"] == "end"] == [False, False, True]


def test_json_lines_do_not_flood() -> None:
    stream = io.StringIO()
    with EventStream(JsonLinesSink(stream, interval=3600)).task("send", total=1000) as meter:
        for _ in range(1000):
            meter.advance(1)
    assert len(stream.getvalue().splitlines()) == 2


LAST = Forecast(((10.0, "boot"), (20.0, "packages"), (60.0, "configuring"), (80.0, "end")))


@pytest.mark.parametrize(
    ("phases", "now", "position"),
    [
        ([], 5, 5),
        ([], 30, 10),  # nothing seen yet: not beyond the first phase
        ([(10, "boot")], 15, 15),
        ([(10, "boot"), (20, "packages")], 50, 50),
        ([(10, "boot"), (20, "packages")], 500, 60),  # not beyond the next phase
        ([(20, "boot"), (40, "packages")], 80, 40),  # half as fast
        ([(20, "boot"), (40, "packages"), (60, "unheard of")], 80, 40),
        ([(40, "packages"), (120, "configuring"), (160, "end")], 200, 80),
    ],
)
def test_an_install_is_as_far_as_the_last_one_was(
    phases: list[tuple[float, str]], now: float, position: float
) -> None:
    assert LAST.position(phases, now) == pytest.approx(position)


def test_a_forecast_needs_an_install_of_the_same_kind(tmp_path: Path) -> None:
    report = tmp_path / "install.json"
    assert read_forecast(report, "tcg") == Forecast()
    assert Forecast().total is None
    facts = {"accelerator": "tcg", "phases": [{"second": 3, "phase": "boot"}]}
    report.write_text(json.dumps(facts))
    assert read_forecast(report, "tcg") == Forecast(((3.0, "boot"),))
    assert read_forecast(report, "tcg").total == 3
    assert read_forecast(report, "kvm") == Forecast()
    report.write_text("{")
    assert read_forecast(report, "tcg") == Forecast()


def test_a_log_that_takes_no_more_ends_no_build(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from pipeline.cli.console import PlainProgress\n"
        "progress = PlainProgress()\n"
        "for number in range(100):\n"
        "    progress.say(f'line {number}')\n"
        "sys.exit(3)\n"
    )
    with (tmp_path / "log").open("wb") as log:
        done = subprocess.run(
            ["prlimit", "--fsize=100", sys.executable, "-c", script],
            cwd=PROJECT,
            stderr=log,
            check=False,
        )
    assert done.returncode == 3
    assert (tmp_path / "log").read_text().startswith("line 0\nline 1\n")
    assert (tmp_path / "log").stat().st_size <= 100


def test_a_reader_that_went_away_still_ends_a_run() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream, pytest.raises(BrokenPipeError):
        try:
            tell("nobody hears this", stream)
        finally:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def test_an_error_is_an_event_with_its_parts() -> None:
    stream = io.StringIO()
    show = EventStream(JsonLinesSink(stream), mask=lambda t: t.replace("hunter2", "*"))
    show.fail("Cannot x: hunter2", {"kind": "cloud", "why": "hunter2", "exit_code": 7})
    assert json.loads(stream.getvalue()) == {
        "event": "error",
        "text": "Cannot x: *",
        "kind": "cloud",
        "why": "*",
        "exit_code": 7,
    }


@pytest.mark.parametrize("progress", [PlainProgress, TerminalProgress, QuietProgress])
def test_people_read_an_error_as_it_is(
    progress: Callable[[io.StringIO], EventStream],
) -> None:
    stream = io.StringIO()
    text = "Cannot " + "write a long path " * 12
    progress(stream).fail(text, {"kind": "host"})
    assert stream.getvalue() == f"{text}\n"
