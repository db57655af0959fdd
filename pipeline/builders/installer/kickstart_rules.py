"""What of a kickstart cannot end in an image, found before the hours of an install.

pykickstart knows the syntax, this module the machine that the pipeline gives the installer: one
blank disk, no CD-ROM drive, nobody at the console, and a power-off at the end.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator

from pipeline.builders.installer.answer_text import Finding
from pipeline.builders.installer.install_target import DISK
from pipeline.builders.installer.kickstart_secrets import clear_text
from pipeline.builders.installer.kickstart_storage import DEPLOYMENTS, storage_findings
from pipeline.builders.installer.kickstart_syntax import Kickstart
from pipeline.core.recipe import Recipe

_SOURCES = ("url", "nfs", "liveimg", "harddrive", "cdrom", "hmc", *DEPLOYMENTS)
_NO_SUCH_SOURCE = {
    "cdrom": "the machine has no CD-ROM drive",
    "harddrive": "the machine's only disk is blank",
    "hmc": "the machine is no mainframe",
}
_SOURCE_ARGUMENTS = re.compile(r"(?:^|\s)(?:inst\.)?(?:repo|method)=\S")
_ENDS = ("poweroff", "shutdown", "halt", "reboot")
_INTERACTIVE = {
    "interactive": "it asks at every step",
    "rescue": "it starts a rescue system and installs nothing",
    "upgrade": "it upgrades a system, and the machine's disk is blank",
}
_KERNEL_PARTS = re.compile(
    r"kernel-(?:tools|headers|devel|doc|firmware|abi|modules|srpm|cross|rpm|selftests|kdump)"
)
_KERNEL_LATER = re.compile(
    r"^[^#]*\b(?:(?:dnf|yum|microdnf)\s.*?\binstall\b|rpm\s+-\w*[iUF]).*\bkernel(?!-tools|-headers)"
)
_OTHER_DISK = re.compile(r"(?<![\w/.-])(?:/dev/)?(?:(?:sd|hd|xvd)[a-z]\d*|nvme\d+n\d+(?:p\d+)?)\b")


def findings(kickstart: Kickstart, recipe: Recipe) -> Iterator[Finding]:
    """Everything in the order of the file as far as it is known."""
    yield from clear_text(kickstart)
    yield from _source(kickstart, recipe)
    yield from storage_findings(kickstart, recipe.disk_gib, recipe.release)
    yield from _packages(kickstart)
    yield from _questions(kickstart)
    yield from _boot_loader(kickstart, recipe)
    yield from _scripts(kickstart)
    yield from _end(kickstart)


def _source(kickstart: Kickstart, recipe: Recipe) -> Iterator[Finding]:
    """Where the packages come from. The stand-in has them in its initrd."""
    if recipe.installer != "anaconda" or "" in kickstart.failed:
        return
    url = any("://" in tree for tree in recipe.trees)
    if (recipe.tree_argument and url) or _SOURCE_ARGUMENTS.search(recipe.installer_arguments):
        return
    write = "write url --url={{tree}}{{proxy_option}}"
    for name, why in _NO_SUCH_SOURCE.items():
        for command in kickstart.named(name):
            yield Finding(command.line, f"{name}: {why}, so there is no install source: {write}")
    if not recipe.trees or kickstart.named(*_SOURCES) or kickstart.failed & set(_SOURCES):
        return
    text = (
        "no command names the install source, and the recipe's trees do not reach the installer "
        f"by themselves: {write}, or give the recipe a tree_argument"
    )
    yield Finding(0, text, fatal=not kickstart.dynamic)


def _packages(kickstart: Kickstart) -> Iterator[Finding]:
    """A kernel there must be."""
    packages = getattr(kickstart.handler, "packages", None)
    excluded = getattr(packages, "excludedList", ())
    pattern = next((name for name in excluded if fnmatch.fnmatchcase("kernel", name)), "")
    if not pattern:
        return
    if any(_is_kernel(name) for name in getattr(packages, "packageList", ())):
        return
    if any(_KERNEL_LATER.search(line) for _, line in kickstart.scripts("%post")):
        return
    line = next(
        (
            n
            for n, text in enumerate(kickstart.lines, 1)
            if text.split("#")[0].strip() == f"-{pattern}"
        ),
        0,
    )
    yield Finding(
        line, f"%packages leaves out {pattern} and names no other kernel, and an image needs one: "
        "remove the line"
    )  # fmt: skip


def _is_kernel(name: str) -> bool:
    return name.startswith("kernel") and _KERNEL_PARTS.match(name) is None


def _questions(kickstart: Kickstart) -> Iterator[Finding]:
    """Where the installer, or the image's first boot, would wait for a person."""
    for name, why in _INTERACTIVE.items():
        for command in kickstart.named(name):
            yield Finding(command.line, f"{name}: {why}, and nobody is there: remove it")
    for command in kickstart.named("ignoredisk"):
        if any(name == "--interactive" for name, _ in command.options()):
            yield Finding(
                command.line, "ignoredisk --interactive asks for the disks, and nobody is there: "
                f"write ignoredisk --only-use={DISK}"
            )  # fmt: skip
    for command in kickstart.named("firstboot"):
        if any(name in ("--enable", "--enabled", "--reconfig") for name, _ in command.options()):
            yield Finding(
                command.line, "firstboot: an instance would wait for a person at its first boot; "
                "write firstboot --disabled", fatal=False
            )  # fmt: skip
    if not kickstart.named("rootpw", "user") and not kickstart.dynamic:
        yield Finding(
            0, "neither rootpw nor user is there, and the installer may ask for a password; write "
            "rootpw --lock", fatal=False
        )  # fmt: skip


def _boot_loader(kickstart: Kickstart, recipe: Recipe) -> Iterator[Finding]:
    if recipe.installer != "anaconda":
        return
    for command in kickstart.named("bootloader"):
        if ("--location", "none") in command.options():
            yield Finding(
                command.line, "bootloader --location=none: no configuration will say which kernel "
                "is the default; the newest is taken", fatal=False
            )  # fmt: skip


def _scripts(kickstart: Kickstart) -> Iterator[Finding]:
    """Scripts that lay out other disks than the machine's, unless they look for it, too."""
    lines = kickstart.scripts("%pre", "%pre-install")
    if any(DISK in line for _, line in lines):
        return
    for number, line in lines:
        match = None if line.lstrip().startswith("#") else _OTHER_DISK.search(line)
        if match:
            yield Finding(
                number, f"the script names the disk {match[0]}, and the machine's only disk is "
                f"{DISK}: write {DISK}, here and in the lines after it", fatal=False
            )  # fmt: skip
            return


def _end(kickstart: Kickstart) -> Iterator[Finding]:
    text = "it must end in poweroff: the pipeline waits for a clean power-off"
    ends = kickstart.named(*_ENDS)
    if not ends and "" not in kickstart.failed:
        yield Finding(0, f"{text}; write poweroff")
    elif ends and ends[-1].name not in ("poweroff", "shutdown"):
        yield Finding(ends[-1].line, f"{text}; write poweroff in place of {ends[-1].name}")
