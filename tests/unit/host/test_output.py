"""What a program writes is taken up to a bound."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.host.output import TooMuchError, collect
from pipeline.host.programs import DEVNULL, PIPE, Program, Runner, TimeoutExpired


@pytest.fixture
def run() -> Iterator[Runner]:
    with Runner() as runner:
        yield runner


def started(run: Runner, script: str, *, stdin: bool = False) -> Program:
    argv = [sys.executable, "-I", "-S", "-c", script]
    return run.start(argv, stdin=PIPE if stdin else DEVNULL, stdout=PIPE, stderr=PIPE)


def test_both_streams_and_the_input(run: Runner) -> None:
    script = "import sys; t = sys.stdin.read(); print(len(t)); print('e', file=sys.stderr)"
    with started(run, script, stdin=True) as program:
        assert collect(program, b"x" * 300_000, timeout=30, most=100) == (b"300000\n", b"e\n")


def test_an_input_that_nobody_reads(run: Runner) -> None:
    with started(run, "print('done')", stdin=True) as program:
        assert collect(program, b"x" * 300_000, timeout=30, most=100) == (b"done\n", b"")


def test_the_bound_counts_both_streams(run: Runner, tmp_path: Path) -> None:
    script = "import sys; print('x' * 59); print('y' * 59, file=sys.stderr)"
    with started(run, script) as program:
        out, err = collect(program, None, timeout=30, most=120)
        assert len(out) == len(err) == 60
    with started(run, script) as program, pytest.raises(TooMuchError):
        collect(program, None, timeout=30, most=119)


def test_a_log_has_all_and_memory_the_end(run: Runner, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with started(run, "print('a' * 200_000 + 'end')") as program:
        out, _ = collect(program, None, timeout=30, most=1 << 20, log=log)
    assert log.stat().st_size == 200_004
    assert out.endswith(b"aend\n") and len(out) == 1 << 16


def test_silence_has_a_bound(run: Runner) -> None:
    with started(run, "import time; time.sleep(60)") as program, pytest.raises(TimeoutExpired):
        collect(program, None, timeout=0.2, most=100)
