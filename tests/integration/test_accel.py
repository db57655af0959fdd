"""The acceleration probe with the real qemu."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import accel
from pipeline.progress import QuietProgress
from pipeline.run import Runner
from pipeline.stage import Tools

pytestmark = pytest.mark.integration


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tools]:
    monkeypatch.setenv("IMAGE_PIPELINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(accel.VARIABLE, raising=False)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with Runner() as runner:
        yield Tools(runner, QuietProgress(), scratch)


def test_the_probe_runs_translated(tools: Tools) -> None:
    seconds = accel._probe(tools, "tcg", 60.0)
    assert seconds is not None
    assert list(tools.scratch.iterdir()) == []


def test_a_guest_that_never_leaves_is_ended_at_its_bound(
    tools: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = (b"\xeb\xfe").ljust(510, b"\0") + b"\x55\xaa"  # jump to itself
    monkeypatch.setattr(accel, "boot_sector", lambda: endless)
    begun = time.monotonic()
    assert accel._probe(tools, "tcg", 2.0) is None
    assert time.monotonic() - begun < 30


def test_the_host_is_measured_within_a_bound_and_once(tools: Tools) -> None:
    begun = time.monotonic()
    first = accel.acceleration(tools)
    assert time.monotonic() - begun < 240
    begun = time.monotonic()
    second = accel.acceleration(tools)
    assert time.monotonic() - begun < 0.5
    assert second.accelerator == first.accelerator
    assert second.reason == f"{first.reason}; measured earlier"
