"""Emulators of other architectures, and the line that registers them."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from pipeline.core.errors import HostError
from pipeline.host import emulation
from pipeline.host.emulation import Emulator, emulator


def test_a_native_program_needs_none() -> None:
    assert emulator(platform.machine()) == Emulator("", True)


def test_a_foreign_one_needs_the_emulator_or_a_registration(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(emulation, "find", lambda name: "")
    monkeypatch.setattr(emulation, "_REGISTERED", tmp_path)
    with pytest.raises(HostError, match="apt-get install qemu-user-static"):
        emulator("aarch64")
    entry = tmp_path / "qemu-aarch64"
    # Without F the emulator would be looked for in the guest's root.
    entry.write_text("enabled\ninterpreter /usr/bin/q\nflags: OC\noffset 0\nmagic 7f45464c\n")
    with pytest.raises(HostError):
        emulator("aarch64")
    entry.write_text("enabled\ninterpreter /usr/bin/q\nflags: OCF\noffset 0\nmagic 7f454c46\n")
    assert emulator("aarch64") == Emulator("", True)
    entry.write_text(entry.read_text().replace("enabled", "disabled"))
    with pytest.raises(HostError):
        emulator("aarch64")


def test_the_line_fits_programs_of_the_architecture_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(emulation, "find", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(emulation, "_KEEPS_NAME", "/none/{}")
    line = emulator("aarch64").line
    _, name, kind, offset, magic, mask, program, flags = line.split(":")
    assert (name, kind, offset, flags) == ("qemu-aarch64", "M", "", "OCF")
    assert program == "/usr/bin/qemu-aarch64-static"
    wanted, bits = (bytes.fromhex(text.replace("\\x", "")) for text in (magic, mask))

    def fits(header: bytes) -> bool:
        return all(a & m == b & m for a, b, m in zip(header, wanted, bits, strict=False))

    executable = b"\x7fELF\x02\x01\x01\x00" + bytes(8) + b"\x02\x00\xb7\x00"
    shared = b"\x7fELF\x02\x01\x01\x03" + bytes(8) + b"\x03\x00\xb7\x00"
    native = Path("/bin/sh").read_bytes()[:20]
    assert fits(executable) and fits(shared) and not fits(native)
    assert len(line) < 256  # the kernel's bound is 1920, of old ones 256
