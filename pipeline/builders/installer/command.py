"""virt-install's command line, as a pure function of the recipe and the build's paths.

Source: virt-install(1) of virtinst 4.1; `--disk` takes libvirt's XML names (source.file,
driver.cache), which bypasses storage pools: the embedded driver has none and no other gets one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.architecture import WORDS, Architecture
from pipeline.core.image import Accelerator
from pipeline.core.recipe import Recipe

PROGRAM = "virt-install"
_CONSOLES = {
    # The last one is /dev/console. Debian's installer would run once on each of several.
    "debian-installer": "console={port},115200n8",
    "anaconda": "console=tty0 console={port},115200n8",
    "stand-in": "console=tty0 console={port},115200n8",
}
# A busy host starves an emulated timer, and Linux panics at its start when ten ticks do not come in
# a tenth of a second (timer_irq_works, arch/x86/kernel/apic/io_apic.c). Only the installer gets it.
_WITHOUT_TIMER_CHECK = "no_timer_check"
_EMULATED: Mapping[Architecture, Mapping[str, str]] = {
    "x86_64": {"baseline": "qemu64", "maximum": "mode=maximum"},
    "aarch64": {"baseline": "cortex-a57", "maximum": "mode=maximum"},
}
# The board that all aarch64 guests have and the firmware that starts the installer's kernel there.
_AAVMF = "/usr/share/AAVMF/AAVMF_"
_BOARDS: Mapping[Architecture, tuple[str, ...]] = {
    "x86_64": (),
    "aarch64": (
        *("--machine", "virt"),
        "--boot",
        f"loader={_AAVMF}CODE.fd,loader.readonly=yes,loader.type=pflash,"
        f"nvram.template={_AAVMF}VARS.fd",
    ),
}
_VIDEO: Mapping[Architecture, str] = {"x86_64": "vga", "aarch64": "virtio"}
# pvpanic is a device of the ISA bus, which only x86 has.
_PANIC: Mapping[Architecture, str] = {"x86_64": "default", "aarch64": "none"}


@dataclass(frozen=True)
class Machine:
    """What one build adds to a recipe. Paths must be free of commas (virt-install(1)).

    tree: a local directory. answers: the file to inject, or the URL it is served at.
    tree_url: the tree as the guest sees it, "" for none.
    """

    uri: str
    name: str
    uuid: str
    accelerator: Accelerator
    disk: Path
    serial: Path
    tree: Path
    answers: Path | str
    tree_url: str = ""


def kernel_arguments(recipe: Recipe, machine: Machine) -> str:
    """The installer's kernel command line."""
    served = isinstance(machine.answers, str)
    where = machine.answers if served else f"file:/{Path(machine.answers).name}"
    if recipe.installer == "debian-installer":
        # preseed.cfg in the initrd's root is read by itself (installation guide, B.2.2).
        answers = f"url={where}" if served else ""
    else:
        answers = f"{recipe.answers_argument}={where}"
    words = [answers, _CONSOLES[recipe.installer].format(port=WORDS[recipe.architecture].serial)]
    if recipe.tree_argument and machine.tree_url:
        words.append(f"{recipe.tree_argument}={machine.tree_url}")
    if machine.accelerator == "tcg" and recipe.architecture == "x86_64":
        words.append(_WITHOUT_TIMER_CHECK)
    words.append(recipe.installer_arguments)
    return " ".join(word for word in words if word)


def virt_install_argv(recipe: Recipe, machine: Machine) -> list[str]:
    """The words of the command, program first."""
    disk = (
        f"type=file,source.file={machine.disk},driver.name=qemu,driver.type=raw,"
        # unsafe: a host that crashes takes the unfinished build with it anyway
        "driver.cache=unsafe,driver.discard=unmap,target.dev=vda,target.bus=virtio"
    )
    if recipe.installer == "debian-installer":
        kernel, initrd = machine.tree / recipe.kernel, machine.tree / recipe.initrd
        source = ["--install", f"kernel={kernel},initrd={initrd}"]
    else:
        source = ["--location", str(machine.tree)]
    emulated = _EMULATED[recipe.architecture][recipe.cpu]
    if isinstance(machine.answers, Path):
        source += ["--initrd-inject", str(machine.answers)]
    return [
        PROGRAM,
        *("--connect", machine.uri),
        *("--name", machine.name),
        *("--uuid", machine.uuid),
        *("--virt-type", "kvm" if machine.accelerator == "kvm" else "qemu"),
        *("--arch", recipe.architecture),
        *_BOARDS[recipe.architecture],
        *("--cpu", "host-passthrough" if machine.accelerator == "kvm" else emulated),
        *("--vcpus", str(recipe.vcpus)),
        *("--memory", str(recipe.memory_mib)),
        *("--osinfo", recipe.osinfo),
        *("--disk", disk),
        *("--network", "user,model=virtio"),
        *("--graphics", "none"),
        # For the picture of a hung screen; nobody connects to it.
        *("--video", _VIDEO[recipe.architecture]),
        *("--serial", f"file,path={machine.serial}"),
        *("--rng", "/dev/urandom"),
        *("--memballoon", "none"),
        *("--channel", "none"),  # no guest agent: its socket's path would be too long
        *("--panic", _PANIC[recipe.architecture]),
        *("--events", "on_crash=preserve"),
        *source,
        *("--extra-args", kernel_arguments(recipe, machine)),
        *("--check", "all=off"),
        *("--noautoconsole", "--noreboot"),
        *("--wait", "-1"),  # the pipeline keeps the time, and knows why it waits
    ]
