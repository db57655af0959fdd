"""What a user may ask of a build, and what the build would then do."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline import accel, guest, install, kickstart, settings, verify
from pipeline.extract import open_format
from pipeline.manifest import FILE
from pipeline.progress import Progress, human_bytes
from pipeline.recipe import Recipe
from pipeline.run import Runner, Secrets
from pipeline.stage import Tools

SUFFIXES = {"machine": ".img", "kernel": "-vmlinuz", "ramdisk": "-initrd", "disk": "-disk.raw"}
"""What the files of a build are called: the recipe's name and this, by role."""


@dataclass(frozen=True)
class BuildRequest:
    """What the user asked for.

    disk: an installed disk in place of an install. root: which volume, overriding the recipe.
    variables: values for the kickstart's variables. backend: guestfs or e2fsprogs, or "auto".
    accelerator: "kvm", "tcg" or "" for the faster. fresh: reuse nothing.
    """

    recipe: Recipe
    disk: Path | None = None
    root: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)
    backend: guest.Backend = "auto"
    accelerator: str = ""
    verify: bool = True
    disk_image: bool = False
    fresh: bool = False

    @property
    def wants_disk(self) -> bool:
        """Whether a bootable whole disk is made too."""
        return self.recipe.disk_image or self.disk_image


def triple(request: BuildRequest, files: Mapping[str, Path]) -> verify.Triple:
    """What the boot check boots: the build's files, by role."""
    return verify.Triple(
        machine=files["machine"],
        kernel=files["kernel"],
        ramdisk=files["ramdisk"],
        command_line=request.recipe.command_line,
        user=request.recipe.user,
    )


def plan(request: BuildRequest, progress: Progress, secrets: Secrets) -> list[str]:
    """What `build` would do, one line a step, with exact commands; writes nothing in build/."""
    recipe = request.recipe
    directory = settings.build_dir() / recipe.name
    steps: list[str] = []
    with tempfile.TemporaryDirectory() as scratch, Runner(secrets=secrets) as runner:
        tools = Tools(runner, progress, Path(scratch))
        acceleration = accel.acceleration(tools, force=request.accelerator)
        steps.append(f"run guests with {acceleration.accelerator}: {acceleration.reason}")
        if request.disk is not None:
            disk = open_format(request.disk)
            size = disk.path.stat().st_blocks * 512
            steps.append(f"read the {disk.format} disk {disk.path}, {human_bytes(size)} allocated")
        else:
            kickstart.render(recipe, nonce="0" * 32, overrides=request.variables)
            steps.append(f"check and fill in {recipe.answers}")
            if recipe.trees:
                steps.append("use the first install tree that answers: " + ", ".join(recipe.trees))
            else:
                steps.append("make the stand-in install tree from this host's packages")
            steps.append(shlex.join(install.plan(recipe, None, acceleration)))
            steps.append(f"keep the installed disk as {directory / 'disk.img'}")
    chosen = request.root or recipe.root or "found by inspection"
    steps.append(f"extract the root filesystem ({chosen}) and a separate /boot, holes preserved")
    steps.append(f"edit it with {request.backend}: label, fstab, key script, hygiene")
    files = {role: directory / (recipe.name + suffix) for role, suffix in SUFFIXES.items()}
    if request.verify:
        steps += verify.plan(triple(request, files), acceleration)
    else:
        steps.append("skip the boot check: `upload` will want --unverified")
    made = [path for role, path in files.items() if role != "disk" or request.wants_disk]
    steps.append("write " + ", ".join(map(str, made)))
    steps.append(f"write {directory / FILE}")
    return steps
