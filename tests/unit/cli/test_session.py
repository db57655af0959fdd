"""What a user sees when something goes wrong, and what a program sees."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cli.console import PlainProgress
from pipeline.cli.session import session
from pipeline.core.errors import (
    BusyError,
    CloudError,
    DiskError,
    GuestError,
    HostError,
    InputError,
    InstallError,
    PipelineError,
    ProgramError,
    VerifyError,
)
from pipeline.core.events import QuietProgress
from pipeline.core.resources import PROJECT
from pipeline.core.text import human_bytes, printable

ROOT = PROJECT


def test_an_error_is_one_paragraph_and_a_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop, session():
        raise InputError("read", Path("/x/y"), why="it is empty.", next_step="Fill it")
    assert stop.value.code == 2
    seen = capsys.readouterr()
    assert seen.err == "Cannot read /x/y: it is empty. Fill it.\n"
    assert seen.out == ""


def test_json_errors_are_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), session(as_json=True):
        raise CloudError("register the kernel on", "glance:x", why="401", next_step="Log in")
    answer = json.loads(capsys.readouterr().out)
    assert answer["exit_code"] == 7
    assert "glance:x" in answer["error"]
    assert {
        name: answer[name] for name in ("kind", "attempted", "subject", "why", "next_step")
    } == {
        "kind": "cloud",
        "attempted": "register the kernel on",
        "subject": "glance:x",
        "why": "401",
        "next_step": "Log in",
    }


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (None, None, 0),
        (InputError("use", "x", why="it is wrong"), "input", 2),
        (OSError(errno.ENOSPC, "No space left on device", "/b/x"), "host", 3),
        (MemoryError(), "host", 3),
        (ZeroDivisionError("oops"), "internal", 1),
        (KeyboardInterrupt(), "signal", 130),
        (SystemExit(6), None, 6),
    ],
    ids=str,
)
@pytest.mark.parametrize("answered", [False, True])
def test_standard_output_has_one_document_however_it_ends(
    error: BaseException | None,
    kind: str | None,
    code: int,
    answered: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    status = 0
    try:
        with session(as_json=True) as view:
            if answered:
                view.result({"ids": ["ami-1"]}, ["ami-1"])
            if error is not None:
                raise error
    except SystemExit as stop:
        status = int(str(stop.code))
    assert status == code
    text = capsys.readouterr().out
    if kind is None:
        assert text == (json.dumps({"ids": ["ami-1"]}, indent=1) + "\n" if answered else "")
        return
    document = json.loads(text)
    assert (document["kind"], document["exit_code"]) == (kind, code)
    assert document.get("result") == ({"ids": ["ami-1"]} if answered else None)


def test_every_error_has_a_kind_of_its_own() -> None:
    kinds = (
        InputError, HostError, ProgramError, InstallError, DiskError, GuestError, VerifyError,
        CloudError, BusyError, PipelineError,
    )  # fmt: skip
    assert len({kind.kind for kind in kinds}) == len(kinds)


def test_a_traceback_only_when_asked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGE_PIPELINE_DEBUG", "1")
    with pytest.raises(SystemExit), session():
        raise HostError("run", "x", why="gone")
    assert "Traceback" in capsys.readouterr().err


def test_secrets_and_control_characters_do_not_pass(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), session(debug=True) as view:
        view.secrets.add("hunter2hunter2")
        raise DiskError("read", "f", why="label \x1b]0;evil\x07 hunter2hunter2")
    seen = capsys.readouterr().err
    assert "hunter2" not in seen
    assert "\x1b" not in seen.splitlines()[-1]


def test_secrets_of_the_environment_are_shown_nowhere(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "OS_PASSWORD": "pass-one",
        "OS_APPLICATION_CREDENTIAL_SECRET": "pass-two",
        "AWS_SECRET_ACCESS_KEY": "pass-three",
        "https_proxy": "http://me:pass%2Dfour@proxy:3128/",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit), session(debug=True) as view:
        view.progress.say("pass-one")
        view.progress.warn("pass-two")
        with view.progress.task("pass-three") as meter:
            meter.describe("pass-four")
            meter.advance(1)
        view.complain("pass%2Dfour")
        logging.getLogger("a.library").warning("no answer from http://x:%s@host", "pass-one")
        raise CloudError("log in to", "x", why="pass-one pass-two pass-three pass-four pass%2Dfour")
    seen = capsys.readouterr()
    assert "****" in seen.err and "no answer from" in seen.err
    assert "pass-" not in seen.err + seen.out and "pass%" not in seen.err


def test_host_errors_name_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop, session():
        Path("/nonexistent/file").read_text()
    assert stop.value.code == 3
    assert "/nonexistent/file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/b/x"), "/b/x'. Free some space"),
        (OSError(errno.EMFILE, "Too many open files", "/b/x"), "ulimit -n"),
        (OSError(errno.EROFS, "Read-only file system", "/b/x"), "IMAGE_PIPELINE_BUILD"),
        (MemoryError(), "ulimit -v"),
    ],
    ids=["full", "descriptors", "read-only", "memory"],
)
def test_what_the_host_lacks_has_a_remedy(
    error: BaseException, remedy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop, session():
        raise error
    assert stop.value.code == 3
    assert remedy in capsys.readouterr().err


def test_a_signal_that_was_ignored_stays_ignored() -> None:
    """nohup(1) starts programs so; one that is not ignored ends the run."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with session():
            os.kill(os.getpid(), signal.SIGHUP)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with pytest.raises(SystemExit) as stop, session():
            os.kill(os.getpid(), signal.SIGHUP)
        assert stop.value.code == 128 + signal.SIGHUP
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_fault_of_our_own_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop, session():
        raise ZeroDivisionError("oops")
    assert stop.value.code == 1
    assert "ZeroDivisionError: oops. Run it again with --debug" in capsys.readouterr().err


def test_exit_statuses_pass_through() -> None:
    with pytest.raises(SystemExit) as stop, session():
        sys.exit(42)
    assert stop.value.code == 42


def test_every_kind_has_its_own_code() -> None:
    kinds = (InputError, InstallError, VerifyError, CloudError, BusyError)
    codes = [kind.exit_code for kind in (*kinds, HostError, DiskError, PipelineError)]
    assert len(set(codes)) == len(codes)
    assert ProgramError.exit_code == HostError.exit_code
    assert GuestError.exit_code == DiskError.exit_code


SCRIPT = """
import time
from pipeline.cli.session import session
with session():
    try:
        print("ready", flush=True)
        time.sleep(600)
    finally:
        print("cleaned", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signals_clean_up_and_give_their_code(number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        os.kill(process.pid, number)
        try:
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 128 + number
    assert out == b"cleaned\n"
    assert number.name.encode() in err


def test_plain_progress_speaks_in_lines(capsys: pytest.CaptureFixture[str]) -> None:
    show = PlainProgress(interval=0)
    with show.task("copy", total=4096) as meter:
        meter.advance(1024)
        meter.describe("copy\x1b[2J")
    show.warn("low space")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "copy"
    assert any(line.startswith("copy: 1.0 KiB of 4.0 KiB") for line in lines)
    assert "\x1b" not in "".join(lines)
    assert lines[-1] == "warning: low space"


def test_quiet_progress_still_warns(capsys: pytest.CaptureFixture[str]) -> None:
    show = QuietProgress()
    show.say("nothing")
    with show.task("copy") as meter:
        meter.advance(1)
        meter.describe("x")
    show.warn("low space")
    assert capsys.readouterr().err == "warning: low space\n"


def test_words_and_figures() -> None:
    assert human_bytes(0) == "0 B"
    assert human_bytes(1536) == "1.5 KiB"
    assert human_bytes(5 * 2**40) == "5.0 TiB"
    assert printable("a\x00b\n\tü") == "a\\x00b\n\tü"
