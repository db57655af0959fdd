"""The acceleration probe with the real qemu."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.core.architecture import Architecture
from pipeline.core.events import QuietProgress
from pipeline.host import hypervisor
from pipeline.host.context import Tools
from pipeline.host.programs import Runner

pytestmark = pytest.mark.integration


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tools]:
    monkeypatch.setenv("IMAGE_PIPELINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(hypervisor.VARIABLE, raising=False)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with Runner() as runner:
        yield Tools(runner, QuietProgress(), scratch)


@pytest.mark.parametrize("architecture", ["x86_64", "aarch64"])
def test_the_probe_runs_translated(architecture: Architecture, tools: Tools) -> None:
    seconds = hypervisor.probe(tools, "tcg", 60.0, architecture)
    assert seconds is not None
    assert list(tools.scratch.iterdir()) == []


@pytest.mark.parametrize("architecture", ["x86_64", "aarch64"])
def test_a_guest_that_never_leaves_is_ended_at_its_bound(
    architecture: Architecture, tools: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = (b"\xeb\xfe").ljust(510, b"\0") + b"\x55\xaa"  # jump to itself
    monkeypatch.setattr(hypervisor, "boot_sector", lambda: endless)
    monkeypatch.setattr(hypervisor, "bare_program", lambda: bytes.fromhex("00000014"))
    begun = time.monotonic()
    assert hypervisor.probe(tools, "tcg", 2.0, architecture) is None
    assert time.monotonic() - begun < 30


def test_the_host_is_measured_within_a_bound_and_once(tools: Tools) -> None:
    begun = time.monotonic()
    first = hypervisor.acceleration(tools)
    assert time.monotonic() - begun < 240
    begun = time.monotonic()
    second = hypervisor.acceleration(tools)
    assert time.monotonic() - begun < 0.5
    assert second.accelerator == first.accelerator
    assert second.reason == f"{first.reason}; measured earlier"
