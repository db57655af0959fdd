"""Programs: what it refuses, what it logs, what it leaves behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.core.errors import HostError, ProgramError
from pipeline.core.resources import PROJECT
from pipeline.core.secrets import Secrets
from pipeline.host.cleanup import start_time
from pipeline.host.programs import Runner
from pipeline.host.requirements import require
from pipeline.workflows.requirements import requirements

ROOT = PROJECT


def until(condition: Callable[[], bool], seconds: float = 20) -> bool:
    """Whether the condition became true within the bound."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_output_and_input() -> None:
    with Runner() as runner:
        assert runner.run(["cat"], input=b"words", timeout=20).stdout == b"words"
        assert runner.run(["sh", "-c", "cat; echo end"], timeout=20).text == "end\n"


def test_a_failure_says_what_and_how_to_repeat_it() -> None:
    with Runner() as runner, pytest.raises(ProgramError) as caught:
        runner.run(["sh", "-c", "echo 'no such thing' >&2; exit 3"], timeout=20)
    message = str(caught.value)
    assert "exit status 3: no such thing" in message
    assert "sh -c 'echo " in message


def test_other_statuses_may_be_fine() -> None:
    with Runner() as runner:
        assert runner.run(["sh", "-c", "exit 1"], timeout=20, ok=(0, 1)).returncode == 1


def test_a_program_that_does_not_end_is_ended() -> None:
    begun = time.monotonic()
    with Runner() as runner, pytest.raises(ProgramError, match="did not end within 1 s"):
        runner.run(["sleep", "600"], timeout=1)
    assert time.monotonic() - begun < 60


def test_a_missing_program_names_its_package() -> None:
    with Runner() as runner, pytest.raises(HostError, match="not installed"):
        runner.run(["no-such-program-here"], timeout=20)
    assert requirements()  # the rooms have said what they need
    with pytest.raises(HostError, match="apt-get install virtinst"):
        require("virt-install", "/nonexistent")


def test_the_environment_is_minimal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OS_PASSWORD", "hunter2hunter2")
    with Runner() as runner:
        seen = runner.run(["env"], timeout=20, env={"GIVEN": "1"}).text
    assert "hunter2" not in seen
    assert "GIVEN=1" in seen
    assert "LC_ALL=C.UTF-8" in seen


def test_secrets_are_masked_in_log_and_errors(tmp_path: Path) -> None:
    secrets = Secrets()
    secrets.add("s3cret-word")
    secrets.add("s3cret")
    log = tmp_path / "commands.log"
    with Runner(log, secrets) as runner, pytest.raises(ProgramError) as caught:
        runner.run(["sh", "-c", "echo s3cret-word >&2; exit 1"], timeout=20)
    assert "s3cret" not in str(caught.value) + log.read_text()
    assert secrets.mask("a s3cret-word b") == "a **** b"


def test_the_log_can_be_pasted(tmp_path: Path) -> None:
    log = tmp_path / "commands.log"
    with Runner(log) as runner:
        runner.run(["printf", "%s", "it's; a $word"], timeout=20)
        place = tmp_path / "a place"
        place.mkdir()
        runner.run(["sh", "-c", 'pwd; echo "$HUE"'], timeout=20, cwd=place, env={"HUE": "a b"})
    plain, placed = log.read_text().splitlines()[1::2]
    assert said(plain) == "it's; a $word"
    assert said(placed) == f"{place}\na b\n"


def said(command: str) -> str:
    return subprocess.run(["sh", "-c", command], capture_output=True, check=True, text=True).stdout


def test_an_echo_shows_programs_as_they_start_without_secrets() -> None:
    secrets = Secrets()
    secrets.add("s3cret")
    shown: list[str] = []
    with Runner(None, secrets, shown.append) as runner:
        runner.run(["true", "s3cret"], timeout=20)
    assert shown == ["$ true ****"]


def test_leaving_the_context_ends_the_whole_group(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    with Runner() as runner:
        with runner.start(["sh", "-c", f"sleep 600 & echo $! > {note}; wait"]) as program:
            assert until(lambda: note.exists() and note.read_text().strip() != "")
            child = int(note.read_text())
            assert alive(child)
        assert not alive(program.pid)
        assert until(lambda: not alive(child))


def test_a_child_that_ignores_sigterm_is_killed() -> None:
    with Runner() as runner:
        program = runner.start(
            ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done"],
            stdout=subprocess.PIPE,
        )
        assert program.process.stdout is not None
        program.process.stdout.readline()
        assert program.stop(grace=0.2) == -signal.SIGKILL


SCRIPT = """
import os, signal, sys, time
from pathlib import Path
from pipeline.host.programs import Runner
here = Path(sys.argv[1])
runner = Runner()
program = runner.start(["sh", "-c", f"sleep 600 & echo $! > {here}/grandchild; wait"])
(here / "child").write_text(str(program.pid))
with runner.cleanup(argv=["touch", f"{here}/cleaned"], remove=here / "directory"):
    while not (here / "grandchild").exists():
        time.sleep(0.01)
    (here / "ready").touch()
    time.sleep(600)
"""


@pytest.mark.parametrize("whole_group", [False, True])
def test_nothing_outlives_a_killed_pipeline(tmp_path: Path, whole_group: bool) -> None:
    (tmp_path / "directory" / "below").mkdir(parents=True)
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], cwd=ROOT, start_new_session=True
    )
    assert until((tmp_path / "ready").exists)
    child = int((tmp_path / "child").read_text())
    grandchild = int((tmp_path / "grandchild").read_text())
    if whole_group:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()
    assert until(lambda: not alive(child) and not alive(grandchild))
    assert until((tmp_path / "cleaned").exists)
    assert until(lambda: not (tmp_path / "directory").exists())


def test_a_dropped_cleanup_is_not_done(tmp_path: Path) -> None:
    with Runner() as runner, runner.cleanup(argv=["touch", str(tmp_path / "cleaned")]):
        pass
    assert not (tmp_path / "cleaned").exists()


def test_the_supervisor_spares_a_reused_process_number() -> None:
    bystander = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        start = start_time(bystander.pid)
        assert start is not None
        job = {"add": 1, "group": bystander.pid, "start": start + 1}
        subprocess.run(
            [sys.executable, "-I", "-S", str(ROOT / "pipeline" / "host" / "cleanup.py")],
            input=json.dumps(job).encode() + b"\n{broken",
            check=True,
            timeout=60,
        )
        assert alive(bystander.pid)
    finally:
        bystander.kill()
        bystander.wait()


def test_programs_from_several_threads() -> None:
    results: list[str] = []
    with Runner() as runner:
        threads = [
            threading.Thread(
                target=lambda n=n: results.append(runner.run(["echo", str(n)], timeout=60).text)
            )
            for n in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(results) == [f"{n}\n" for n in range(8)]


def test_a_program_that_failed_on_a_full_disk_is_not_blamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Runner() as runner:
        with pytest.raises(ProgramError):
            runner.run(["false", tmp_path], timeout=10)
        monkeypatch.setattr("pipeline.host.programs._FULL", 1 << 62)
        with pytest.raises(HostError, match=f"false failed on {tmp_path}: .* KiB are free"):
            runner.run(["false", tmp_path], timeout=10)
        with pytest.raises(ProgramError):
            runner.run(["false"], timeout=10)


def test_no_child_gets_a_secret_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "never-handed-down")
    with Runner() as runner, runner.start(["sleep", "60"]) as program:
        supervisor = runner.supervisor.pid
        assert supervisor is not None
        for pid in (program.pid, supervisor):
            assert until(lambda pid=pid: Path(f"/proc/{pid}/environ").read_bytes() != b"")  # type: ignore[misc]
            assert until(
                lambda pid=pid: b"never-handed" not in Path(f"/proc/{pid}/environ").read_bytes()  # type: ignore[misc]
            )
