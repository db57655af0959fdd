"""What this host has and lacks for each task, each lack with the command that mends it.

Everything is tried, not asked: programs are looked up as host/programs.py would, libvirt is
opened, a boot sector measures the acceleration, clouds get one request with the user's credentials.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from pipeline.builders.installer import libvirt_connection
from pipeline.builders.installer.domain import interpreter
from pipeline.builders.recipes import load_recipes
from pipeline.clouds import credentials
from pipeline.clouds.registry import default_words, open_clouds
from pipeline.core import settings
from pipeline.core.architecture import WORDS, Architecture
from pipeline.core.errors import HostError, PipelineError
from pipeline.core.image import PartitionImage
from pipeline.core.recipe import Recipe
from pipeline.core.resources import COMMAND
from pipeline.core.text import human_bytes
from pipeline.guest.access.open import open_guest
from pipeline.host import hypervisor, memory
from pipeline.host.context import Tools
from pipeline.host.isolation import find_isolation
from pipeline.host.requirements import find, require
from pipeline.verify.machines import MACHINES
from pipeline.workflows.requirements import requirements

State = Literal["ok", "advice", "lack"]

_LIBVIRT = """
import sys, libvirt
libvirt.virEventRegisterDefaultImpl()
connection = libvirt.open(sys.argv[1])
number = connection.getLibVersion()
print(f"{connection.getType()}, libvirt {number // 1000000}.{number // 1000 % 1000}")
"""
_BOOT = Path("/boot")
_LIBVIRT_SECONDS = 90.0  # a first start probes every qemu binary, some seconds each without KVM
_LEAST_SPACE = 2 << 30  # bytes; the demo's disk and files fit into a quarter of it


@dataclass(frozen=True)
class Check:
    """One thing that was tried.

    area: the task it is for. detail: what was found, or why it will not do. mend: the command or
    the act that mends it. needed: whether its lack fails the doctor.
    """

    area: str
    name: str
    state: State
    detail: str
    mend: str = ""
    needed: bool = True


class Advice(Exception):
    """No error: it works. `args` are what was found and what would make it better."""


def examine(tools: Tools, *, full: bool = False) -> Iterator[Check]:
    """Every check, as soon as it is done.

    full: also launch the editing appliance, which takes up to minutes without acceleration.
    """
    yield from _programs(needed=True)
    yield _try("install", "libvirt", partial(_libvirt, tools))
    yield _try("install", "acceleration", partial(_acceleration, tools))
    yield from _programs(needed=False)
    yield _try("isolation", "namespaces", partial(_isolation, tools), needed=False)
    yield _try("verify aarch64", "firmware", partial(_firmware, "aarch64"), needed=False)
    yield _try("customize", "kernel for the appliance", _readable_kernel, needed=False)
    yield _try("customize", "guestfs bindings", partial(_bindings, tools), needed=False)
    if full:
        yield _try("customize", "guestfs appliance", partial(_launch, tools), needed=False)
    yield _try("host", "recipes", lambda: f"{len(_recipes())} in {settings.recipes_file()}")
    yield _try("host", "processor", _processor)
    yield _try("host", "memory", _memory)
    for name, directory in (
        ("space for builds", settings.build_dir()),
        ("space for the cache", settings.cache_dir()),
    ):
        yield _try("host", name, partial(_space, directory))
    chosen = default_words(os.environ)
    for word in credentials.configured():
        yield _try(
            "upload",
            word,
            partial(_cloud, word),
            needed=word in chosen,
        )


def failed(checks: Sequence[Check]) -> bool:
    """Whether something needed is lacking."""
    return any(check.state == "lack" and check.needed for check in checks)


def lines(checks: Sequence[Check]) -> list[str]:
    """One screen: a heading an area, a line a check, below it what mends it."""
    text: list[str] = []
    width = max(len(check.name) for check in checks)
    for area in dict.fromkeys(check.area for check in checks):
        text.append(area)
        for check in (c for c in checks if c.area == area):
            word = "lack" if check.state == "lack" and check.needed else _WORDS[check.state]
            text.append(f"  {word:7}{check.name:{width}}  {check.detail}")
            if check.mend:
                text.append(f"  {'':7}{'':{width}}  → {check.mend}")
    lacks = [check for check in checks if check.state == "lack"]
    needed = sum(check.needed for check in lacks)
    text.append(
        f"{needed} needed and {len(lacks) - needed} optional things are lacking"
        if lacks
        else "nothing is lacking"
    )
    return text


_WORDS: dict[State, str] = {"ok": "ok", "advice": "advice", "lack": "(lack)"}


def _try(area: str, name: str, look: Callable[[], str], *, needed: bool = True) -> Check:
    try:
        return Check(area, name, "ok", look(), needed=needed)
    except Advice as advice:
        found, better = advice.args
        return Check(area, name, "advice", found, better, needed)
    except PipelineError as error:
        return Check(area, name, "lack", error.why, error.next_step, needed)
    except OSError as error:
        return Check(area, name, "lack", str(error), needed=needed)


def _programs(*, needed: bool) -> Iterator[Check]:
    """One check for an area's programs that are there, one for each that is not."""
    for requirement in requirements():
        if requirement.needed is not needed:
            continue
        area = requirement.area
        names = requirement.programs
        checks = [_try(area, name, partial(_program, name), needed=needed) for name in names]
        there = [check.name for check in checks if check.state == "ok"]
        if there:
            yield Check(area, "programs", "ok", ", ".join(there), needed=needed)
        yield from (check for check in checks if check.state != "ok")


def _program(name: str) -> str:
    require(name)
    return find(name)


def _isolation(tools: Tools) -> str:
    """Go inside once, as a build from packages would."""
    found = find_isolation(tools)
    if found.mode == "root":
        raise Advice(
            "no user namespace: programs of packages run as this container's root"
            + ("" if found.namespaces else ", and see its network and processes"),
            "allow user namespaces and mounts in this container, or build on a host",
        )
    last = found.first_id + found.count - 1
    layers = "stacked" if found.overlay else "copied: no overlayfs here"
    return f"a guest's ids are {found.first_id} to {last} of this host; layers are {layers}"


def _libvirt(tools: Tools) -> str:
    program = _program("virt-install")
    with libvirt_connection.open_connection(tools) as opened:
        done = tools.run.run(
            [interpreter(Path(program)), "-c", _LIBVIRT, opened.uri],
            env=opened.environment,
            timeout=_LIBVIRT_SECONDS,
            attempted="open libvirt",
        )
    return f"{done.text.strip()} ({libvirt_connection.chosen_uri()})"


def _acceleration(tools: Tools) -> str:
    found = hypervisor.acceleration(tools)
    detail = f"{found.accelerator}: {found.reason}"
    if found.accelerator == "kvm" or found.reason == "forced":
        return detail
    raise Advice(detail, _better_acceleration())


def _better_acceleration() -> str:
    device = Path("/dev/kvm")
    if not device.exists():
        return (
            "use a host with hardware virtualisation: without it guests run 10 to 20 times slower"
        )
    if not os.access(device, os.R_OK | os.W_OK):
        return 'usermod --append --groups kvm "$USER", then log in again'
    return "KVM does not perform here; a host without nested virtualisation would"


def _readable_kernel() -> str:
    kernels = sorted(_BOOT.glob("vmlinuz-*"))
    if not kernels:
        raise HostError(
            "launch an appliance",
            why="there is no kernel in /boot",
            next_step="apt-get install linux-image-cloud-amd64",
        )
    readable = [kernel for kernel in kernels if os.access(kernel, os.R_OK)]
    if not readable:
        raise HostError(
            "launch an appliance",
            why=f"{kernels[-1]} is closed to this user",
            next_step=f"dpkg-statoverride --update --add root root 0644 {kernels[-1]}",
        )
    return str(readable[-1])


def _bindings(tools: Tools) -> str:
    # In a process of its own: a broken library must not end the doctor.
    code = "import guestfs; v = guestfs.GuestFS(python_return_dict=True).version(); "
    code += "print(f\"libguestfs {v['major']}.{v['minor']}.{v['release']}\")"
    try:
        return tools.run.run([sys.executable, "-c", code], timeout=60).text.strip()
    except PipelineError as error:
        raise HostError(
            "load guestfs", why=error.why, next_step="apt-get install python3-guestfs"
        ) from error


def _launch(tools: Tools) -> str:
    """Launch the appliance on a small file system and read its root."""
    image = tools.scratch / "doctor.img"
    uuid = "6f8b2d1e-0c5f-4f0e-9a55-3f2b8f7f6a01"
    size = 8 << 20
    tools.run.run(["mke2fs", "-q", "-t", "ext4", "-U", uuid, image, f"{size >> 10}k"], timeout=60)
    root = PartitionImage(image, size, "ext4", uuid, "", "the doctor's own")
    found = hypervisor.acceleration(tools)
    with open_guest(root, None, backend="guestfs", acceleration=found, tools=tools) as opened:
        if opened.names("/") != ["lost+found"]:
            raise HostError("read through the appliance", why="it shows another file system")
    return f"launched with {found.accelerator}"


def _firmware(architecture: Architecture) -> str:
    """The files of UEFI for guests of an architecture."""
    uefi = MACHINES[architecture].uefi
    for file in (uefi.code, uefi.variables):
        if not file.is_file():
            raise HostError(
                "boot under UEFI with",
                file,
                why=f"there is no {file}",
                next_step=f"apt-get install {uefi.package}",
            )
    return str(uefi.code)


def _cloud(word: str) -> str:
    (cloud,) = open_clouds([word])
    return cloud.check()


def _recipes() -> dict[str, Recipe]:
    return load_recipes(settings.recipes_file())


def _processor() -> str:
    detail = f"{platform.machine()}, {len(os.sched_getaffinity(0))} usable"
    if platform.machine() not in WORDS:
        raise HostError(
            "build", why=f"this is {platform.machine()}", next_step="Use an x86_64 host"
        )
    if platform.machine() != "x86_64":
        raise Advice(detail, "the demo, and recipes of x86_64 at full speed, want an x86_64 host")
    return detail


def _memory() -> str:
    free = memory.available()
    largest = max((recipe.memory_mib << 20 for recipe in _recipes().values()), default=0)
    if free < largest:
        raise Advice(
            f"{human_bytes(free)} are available",
            f"end other programs: the largest guest of the recipes has {human_bytes(largest)}",
        )
    return f"{human_bytes(free)} are available"


def _space(directory: Path) -> str:
    place = next(path for path in (directory, *directory.parents) if path.exists())
    if not os.access(place, os.W_OK):
        raise HostError(
            "write", place, why=f"{place} is closed to this user", next_step=f"chown it: {place}"
        )
    free = shutil.disk_usage(place).free
    detail = f"{human_bytes(free)} free at {directory}"
    if free < _LEAST_SPACE:
        raise HostError(
            "write", place, why=detail, next_step=f"{COMMAND} prune --yes deletes what builds left"
        )
    # The installed disk and the root image, both sparse, at their fullest.
    most = max((2 * recipe.disk_gib << 30 for recipe in _recipes().values()), default=0)
    if free < most:
        raise Advice(detail, f"the largest recipe may need {human_bytes(most)} at worst")
    return detail
