"""How guests run on this host: measured once per host and boot, not asked.

A host can have /dev/kvm, answer every KVM ioctl and still run guests a hundred times too slowly
(nested or emulated virtualisation), so the probe runs a guest. It is one boot sector that counts
down and leaves through qemu's isa-debug-exit device: the BIOS exercises exits to the hypervisor,
the loop the processor. On aarch64 it is as many instructions that end with the firmware call
SYSTEM_OFF. The same guest under TCG, qemu's own translator, is the yardstick. A guest of another
architecture than the host's can only be translated: nothing is measured for it.

Sources: qemu's docs/system/i386 and hw/misc/debugexit.c (exit status = value * 2 + 1), its
hw/arm/boot.c (a file without a header is entered at its first byte); the PC boot protocol (512
bytes at 0x7c00, signature 55 AA); Arm's PSCI, DEN0022, 5.10 (SYSTEM_OFF is 84000008h).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shutil
import struct
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from pipeline.core import settings
from pipeline.core.architecture import Architecture, known
from pipeline.core.errors import HostError, InputError, ProgramError
from pipeline.core.image import Acceleration, Accelerator
from pipeline.host.context import Tools
from pipeline.host.files import write_scratch, write_whole

QEMU: Mapping[Architecture, str] = {
    "x86_64": "qemu-system-x86_64",
    "aarch64": "qemu-system-aarch64",
}
"""The program that runs a guest."""
VARIABLE = "IMAGE_PIPELINE_ACCEL"
_KVM = Path("/dev/kvm")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_LOOPS = 100_000_000  # 30 ms of a processor under KVM, 0.3 s translated
_RAN: Mapping[Architecture, int] = {
    "x86_64": 33,  # isa-debug-exit's status for the value 10h
    "aarch64": 0,
}
_TCG_BOUND = 60.0  # s; translated it takes 0.5 s on an idle host
_KVM_BOUND = 5.0  # s; a working KVM needs less than one
_MARGIN = 1.2  # KVM may be this much slower than TCG before it loses: a busy host jitters


def boot_sector() -> bytes:
    """The probe: 512 bytes that count down from `_LOOPS` and leave qemu with status 33."""
    code = (
        b"\x66\xb9" + _LOOPS.to_bytes(4, "little")  # mov ecx, loops
        + b"\x66\x49"  # again: dec ecx
        + b"\x75\xfc"  # jnz again
        + b"\xb0\x10\xe6\xf4"  # mov al, 10h; out 0f4h, al
        + b"\xf4"  # hlt
    )  # fmt: skip
    return code.ljust(510, b"\0") + b"\x55\xaa"


def bare_program() -> bytes:
    """The probe of aarch64: counts down from `_LOOPS` and asks the firmware to power off."""
    high, low = _LOOPS >> 16, _LOOPS & 0xFFFF
    return struct.pack(
        "<8I",
        0xD2A00001 | high << 5,  # movz x1, #high, lsl #16
        0xF2800001 | low << 5,  # movk x1, #low
        0xF1000421,  # again: subs x1, x1, #1
        0x54FFFFE1,  # b.ne again
        0xD2B08000,  # movz x0, #8400h, lsl #16
        0xF2800100,  # movk x0, #8
        0xD4000002,  # hvc #0
        0x14000000,  # b .
    )


def native() -> Architecture:
    """The architecture of this host, whose guests KVM can run."""
    return known(platform.machine())


def decide(kvm: float | None, tcg: float) -> Acceleration:
    """The faster one, by the seconds the probe took; None when KVM did not finish in time."""
    if kvm is None:
        return Acceleration(
            "tcg", f"KVM answers but a probe did not finish (translated it took {tcg:.1f} s)"
        )
    if kvm > tcg * _MARGIN:
        return Acceleration("tcg", f"KVM is slower ({kvm:.1f} s) than translation ({tcg:.1f} s)")
    return Acceleration("kvm", f"a probe ran in {kvm:.1f} s, translated in {tcg:.1f} s")


def acceleration(
    tools: Tools, *, force: str = "", architecture: Architecture | None = None
) -> Acceleration:
    """How to run guests here: forced, remembered since this boot, or measured within seconds.

    force: "kvm" or "tcg"; by default what IMAGE_PIPELINE_ACCEL says, if anything. architecture:
    the guest's; None for this host's own. InputError for any other word, and for KVM where it
    cannot be; HostError when qemu cannot run even a translated guest.
    """
    guest = architecture or native()
    wish = force or os.environ.get(VARIABLE, "")
    if wish:
        if wish not in ("kvm", "tcg"):
            raise InputError(
                "use the acceleration",
                wish,
                why="it is neither kvm nor tcg",
                next_step=f"Leave --accelerator out, and {VARIABLE} unset, to have it measured",
            )
        if guest == native() or wish == "tcg":
            return Acceleration(cast(Accelerator, wish), "forced")
        # The variable speaks of this host's own guests, as the editing appliance is one.
        if force:
            raise InputError(
                f"run a guest of {guest} with",
                wish,
                why=f"this host is {native()}, and KVM runs only guests of its own architecture",
                next_step=f"Leave --accelerator out, or build on a host of {guest}",
            )
    if guest != native():
        return Acceleration("tcg", f"this host is {native()}, a guest of {guest} is translated")
    store = settings.cache_dir() / "acceleration.json"
    key = _host_key()
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        record = json.loads(store.read_text())
        if record["key"] == key and record["accelerator"] in ("kvm", "tcg"):
            return Acceleration(record["accelerator"], f"{record['reason']}; measured earlier")
    measured = _measure(tools)
    tools.progress.say(f"Acceleration: {measured.accelerator} ({measured.reason})")
    with contextlib.suppress(OSError):  # a read-only home costs a second probe, not the build
        store.parent.mkdir(parents=True, exist_ok=True)
        record = {"key": key, "accelerator": measured.accelerator, "reason": measured.reason}
        write_whole(store, json.dumps(record))
    return measured


def _host_key() -> str:
    """Changes with the boot, the user's access to KVM, qemu and this probe."""
    facts: list[object] = [_BOOT_ID.read_text().strip(), os.access(_KVM, os.R_OK | os.W_OK)]
    if program := shutil.which(QEMU[native()]):
        status = Path(program).stat()
        facts += [program, status.st_size, status.st_mtime_ns]
    return hashlib.sha256(repr(facts).encode() + _program(native())).hexdigest()


def _measure(tools: Tools) -> Acceleration:
    if not _KVM.exists():
        return Acceleration("tcg", f"there is no {_KVM}")
    if not os.access(_KVM, os.R_OK | os.W_OK):
        return Acceleration("tcg", f"{_KVM} is closed to this user; joining the kvm group opens it")
    tcg = probe(tools, "tcg", _TCG_BOUND, native())
    if tcg is None:
        raise HostError(
            "run a guest with",
            QEMU[native()],
            why=f"a probe did not finish within {_TCG_BOUND:.0f} s even without KVM",
            next_step=f"Try `{QEMU[native()]} -accel tcg`, or set {VARIABLE}",
        )
    # A host too busy to translate in time must not make a good KVM look bad.
    return decide(probe(tools, "kvm", max(_KVM_BOUND, 2 * tcg), native()), tcg)


def _program(architecture: Architecture) -> bytes:
    return boot_sector() if architecture == "x86_64" else bare_program()


def probe(
    tools: Tools, accelerator: Accelerator, bound: float, architecture: Architecture
) -> float | None:
    """Seconds the probe took; None when it did not leave as it should within `bound`."""
    with tempfile.TemporaryDirectory(dir=tools.scratch, prefix="probe-") as directory:
        file = Path(directory) / "program"
        write_scratch(file, _program(architecture))
        machine = [
            *("-machine", "pc", "-m", "32"),
            *("-device", "isa-debug-exit,iobase=0xf4,iosize=1"),
            *("-drive", f"file={file},format=raw,if=ide,snapshot=on"),
        ]
        if architecture == "aarch64":
            cpu = "host" if accelerator == "kvm" else "cortex-a57"
            machine = ["-machine", "virt,gic-version=max", "-m", "32", "-cpu", cpu]
            machine += ["-kernel", str(file)]
        argv = [
            *(QEMU[architecture], "-no-user-config", "-nodefaults", "-display", "none"),
            *("-no-reboot", "-accel", accelerator, *machine),
        ]
        try:
            return tools.run.run(argv, timeout=bound, ok=(_RAN[architecture],)).seconds
        except ProgramError:
            return None
