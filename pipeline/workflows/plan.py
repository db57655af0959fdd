"""What a build would do: its steps with their exact commands, and sizes where they are known."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline import verify
from pipeline.builders import installer
from pipeline.builders.installer import answers
from pipeline.builds.manifest import FILE
from pipeline.builds.workspace import Workspace
from pipeline.convert.extract import foresee, open_format
from pipeline.convert.shrink import left_out
from pipeline.core import settings
from pipeline.core.events import Progress
from pipeline.core.image import Acceleration, DiskImage
from pipeline.core.request import SUFFIXES, BuildRequest, triple
from pipeline.core.secrets import Secrets
from pipeline.core.text import human_bytes
from pipeline.host import hypervisor
from pipeline.host.context import Tools
from pipeline.host.programs import Runner
from pipeline.workflows.cache_keys import check_key, image_key

_ROOT = "PRIVATE/root.img"
_COPY_CHECKS = ("e2fsck -f -n DISK?offset=BYTES", f"e2fsck -f -p {_ROOT}")
_EDITS = (f"debugfs -w -f edits.debugfs {_ROOT}", f"e2fsck -fn {_ROOT}")
_SHRINK = (
    f"e2fsck -fp {_ROOT}",
    f"dumpe2fs -h {_ROOT}",
    f"resize2fs -P {_ROOT}",
    f"resize2fs {_ROOT} BLOCKS",
    f"dumpe2fs -h {_ROOT}",
    f"e2fsck -fn {_ROOT}",
)


@dataclass(frozen=True)
class Step:
    """One step; commands: ready to read, with words in capitals for what is made on the way.

    reused: an earlier run did it.
    """

    what: str
    commands: tuple[str, ...] = ()
    reused: bool = False


_USED = Step("use the files made from it: neither it nor what makes them changed", reused=True)
_BOOTED = Step("repeat no boot check: it passed on exactly these bytes", reused=True)


def plan(request: BuildRequest, progress: Progress, secrets: Secrets) -> list[Step]:
    """What `build` would do; writes nothing in build/.

    Whether an install is needed shows only when its tree is obtained. The rest goes by the disk
    that is there; the last step is `reused` when nothing would be done from it on.
    """
    with tempfile.TemporaryDirectory() as scratch, Runner(secrets=secrets) as runner:
        tools = Tools(runner, progress, Path(scratch))
        acceleration = hypervisor.acceleration(tools, force=request.accelerator)
        known = _remembered(request)
        how = f"run guests with {acceleration.accelerator}: {acceleration.reason}"
        return [
            Step(how),
            *(_given(request.disk) if request.disk else _install(request, acceleration)),
            *([_USED] if "image" in known else _image(request, tools)),
            *_check(request, acceleration, known),
            *_write(request, known),
        ]


def unchanged(steps: Sequence[Step]) -> bool:
    """Whether the finished build stays as it is."""
    return steps[-1].reused


def _remembered(request: BuildRequest) -> frozenset[str]:
    """Which of the stages image, verify and verify-disk were done from the disk that is there."""
    disk = DiskImage(_directory(request) / "disk.img", "raw")
    if request.disk:
        disk = open_format(request.disk)
    if request.fresh or not disk.path.exists():
        return frozenset()
    workspace, key = Workspace(_directory(request)), image_key(request, disk)
    if workspace.reuse("image", key) is None:
        return frozenset()
    checks = ("verify", "verify-disk")
    done = [n for n in checks if workspace.reuse(n, check_key(n, request, key)) is not None]
    return frozenset(["image", *done])


def plan_lines(steps: Sequence[Step]) -> list[str]:
    """The steps numbered, each command below its step as a shell would take it."""
    lines = []
    for number, step in enumerate(steps, 1):
        lines.append(f"{number:2}. {step.what}")
        lines += [f"      $ {command}" for command in step.commands]
    return lines


def _directory(request: BuildRequest) -> Path:
    return settings.build_dir() / request.recipe.name


def _given(path: Path) -> list[Step]:
    disk = open_format(path)
    size = human_bytes(path.stat().st_blocks * 512)
    return [Step(f"read the {disk.format} disk {path}, {size} allocated")]


def _install(request: BuildRequest, acceleration: Acceleration) -> list[Step]:
    recipe = request.recipe
    answers.render(recipe, nonce="0" * 32, overrides=request.variables)
    tree = "make the stand-in install tree from this host's packages"
    if recipe.trees:
        tree = "use the first install tree that answers: " + ", ".join(recipe.trees)
    size = f"a sparse disk of {recipe.disk_gib} GiB"
    installs = Step(
        f"install on {size} with {recipe.memory_mib} MiB of memory, at most"
        f" {recipe.install_minutes} min",
        (shlex.join(installer.plan(recipe, None, acceleration)),),
    )
    disk = _directory(request) / "disk.img"
    keeps = f"keep the installed disk as {disk}"
    if disk.exists() and not request.fresh:
        taken = human_bytes(disk.stat().st_blocks * 512)
        keeps = f"{disk} is there, {taken}: if no input of the install changed, it is used instead"
    return [Step(f"check and fill in {recipe.answers}"), Step(tree), installs, Step(keeps)]


def _image(request: BuildRequest, tools: Tools) -> list[Step]:
    choice = request.root or request.recipe.root
    known = request.disk or _directory(request) / "disk.img"
    what = f"copy the root filesystem ({choice or 'found by inspection'}) and a separate /boot"
    copies = Step(what, _COPY_CHECKS)
    unshrunk: tuple[str, ...] = ()
    if request.disk or (known.exists() and not request.fresh):
        disk = open_format(known) if request.disk else DiskImage(known, "raw")
        found = foresee(disk, choice, tools)
        checks = tuple(shlex.join(each.check) for each in found if each.check)
        copies = Step("; ".join(each.what for each in found), checks)
        unshrunk = left_out(found[0].filesystem)
    ext = "" if request.backend == "e2fsprogs" else ", if it is a clean ext file system"
    edits = Step(f"edit it{ext}: label, fstab, key script, hygiene", _EDITS)
    if request.backend == "guestfs":
        edits = Step("edit it in libguestfs's appliance: label, fstab, key script, hygiene")
    steps = [copies, edits]
    if request.recipe.shrink:
        shrinks = Step("shrink it to its content", _SHRINK)
        steps += [Step(why) for why in unshrunk] or [shrinks]
    if request.wants_disk:
        steps.append(Step("make a bootable GPT disk of the three files"))
    return steps


def _check(request: BuildRequest, acceleration: Acceleration, known: frozenset[str]) -> list[Step]:
    files = {r: _directory(request) / (request.recipe.name + end) for r, end in SUFFIXES.items()}
    minutes = request.recipe.verify_minutes
    aids = "overlays by qemu-img, keys by ssh-keygen, a look inside by ssh and ssh-keyscan"
    boots = {"verify": f"boot the three files, at most {minutes} min a boot ({aids})"}
    if request.wants_disk:
        boots["verify-disk"] = "boot the whole disk by its own boot loader"
    if not request.verify and not known.issuperset(boots):
        return [Step("skip the boot check: `upload` will want --unverified")]
    disk = verify.WholeDisk(files["disk"], user=request.recipe.user)
    targets: dict[str, verify.Triple | verify.WholeDisk] = {
        "verify": triple(request, files),
        "verify-disk": disk,
    }
    return [
        _BOOTED if name in known else Step(what, tuple(verify.plan(targets[name], acceleration)))
        for name, what in boots.items()
    ]


def _write(request: BuildRequest, known: frozenset[str]) -> list[Step]:
    directory = _directory(request)
    checks = ["verify", "verify-disk"] if request.wants_disk else ["verify"]
    if "image" in known and (not request.verify or known.issuperset(checks)):
        return [Step(f"leave {directory / FILE} as it is", reused=True)]
    if "image" in known:
        return [Step(f"write {directory / FILE}")]
    ends = [end for role, end in SUFFIXES.items() if role != "disk" or request.wants_disk]
    made = [str(directory / (request.recipe.name + end)) for end in ends]
    return [Step("write " + ", ".join(made)), Step(f"write {directory / FILE}")]
