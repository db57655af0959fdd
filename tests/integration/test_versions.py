"""Versions, as the programs themselves tell them."""

from __future__ import annotations

import re
import subprocess

import pytest

from pipeline.host.programs import Runner
from pipeline.host.versions import tool_versions

pytestmark = pytest.mark.integration


def test_every_program_tells_its_version() -> None:
    with Runner() as runner:
        versions = tool_versions(runner, ["e2fsprogs", "qemu", "virt-install"])
    assert set(versions) == {"python", "e2fsprogs", "qemu", "virt-install"}
    assert all(re.fullmatch(r"\d+(\.\d+)+", version) for version in versions.values())
    said = subprocess.run(["qemu-img", "--version"], capture_output=True, text=True, check=True)
    assert versions["qemu"] in said.stdout


def test_a_missing_program_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.setattr("pipeline.host.versions._COMMANDS", {"gone": ("no-such-program", "-V")})
    with Runner() as runner:
        assert tool_versions(runner, ["gone"])["gone"] == ""
