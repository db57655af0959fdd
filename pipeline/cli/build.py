"""Making images and booting them: build, verify, console, recipes."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invoke.context import Context

from pipeline.cli import (
    BUILT,
    MANY,
    PACKAGE_SOURCES,
    PLANNED,
    command,
    help_for,
    package_sources,
    variables,
)
from pipeline.cli.session import session
from pipeline.core import settings
from pipeline.core.errors import InputError, VerifyError

if TYPE_CHECKING:
    from pipeline.core.checks import VerifyReport


@command(
    positional=["recipe"],
    iterable=["variable", "mirror", "repository", "key"],
    help=help_for(
        "recipe",
        "json",
        "quiet",
        "verbose",
        "debug",
        "dry_run",
        "accelerator",
        disk="start from this installed disk (raw, qcow2, VMDK, VDI, VHD, VHDX, OVA, or one of"
        " these compressed); nothing is installed, it is only read",
        root="which volume is the root, VG/LV or a partition number, if there are several",
        variable="NAME=VALUE for the kickstart, may be repeated",
        backend="edit with guestfs or e2fsprogs in place of choosing",
        no_verify="do not boot the result; `upload` will refuse it unless told otherwise",
        disk_image="also make a bootable whole disk",
        fresh="reuse nothing of earlier runs",
        refresh="of packages: ask the mirrors for what is new; without it the state of the last"
        " time stays",
        **PACKAGE_SOURCES,
    ),
)
def build(
    c: Context,
    recipe: str,
    disk: str = "",
    root: str = "",
    variable: Iterable[str] = MANY,
    backend: str = "auto",
    accelerator: str = "",
    no_verify: bool = False,
    disk_image: bool = False,
    fresh: bool = False,
    refresh: bool = False,
    mirror: Iterable[str] = MANY,
    repository: Iterable[str] = MANY,
    key: Iterable[str] = MANY,
    proxy: str = "",
    dry_run: bool = False,
    json: bool = False,
    quiet: bool = False,
    verbose: bool = False,
    debug: bool = False,
) -> None:
    """Install, take the root filesystem out, make it an image, boot it to prove it works."""
    with session(quiet=quiet, as_json=json, debug=debug) as view:
        from pipeline.builders.recipes import choose_recipe, load_recipes
        from pipeline.cli.render import plan_lines
        from pipeline.core.request import BuildRequest
        from pipeline.workflows.build import build, plan, unchanged

        if backend not in ("auto", "guestfs", "e2fsprogs"):
            raise InputError(
                "edit with",
                backend,
                why="backends are auto, guestfs and e2fsprogs",
                next_step="Leave --backend out, or use one of these",
            )
        request = BuildRequest(
            recipe=choose_recipe(load_recipes(settings.recipes_file()), recipe),
            disk=Path(disk) if disk else None,
            root=root,
            variables=variables(variable),
            backend=backend,  # type: ignore[arg-type] # checked above
            accelerator=accelerator,
            verify=not no_verify,
            disk_image=disk_image,
            fresh=fresh,
            refresh=refresh,
            sources=package_sources(mirror, repository, key, proxy),
            verbose=verbose,
        )
        if dry_run:
            steps = plan(request, view.progress, view.secrets)
            known = {**c.config.get(PLANNED, {}), recipe: unchanged(steps)}
            c.config[PLANNED] = known  # type: ignore[assignment] # a DataProxy takes any
            view.result({"plan": [asdict(step) for step in steps]}, plan_lines(steps))
            return
        manifest = build(request, view.progress, view.secrets)
        c.config[BUILT] = [*c.config.get(BUILT, []), recipe]  # type: ignore[assignment] # a DataProxy takes any
        view.result(manifest.model_dump(mode="json"), _summary(manifest))


def _summary(manifest: Any) -> list[str]:
    from pipeline.builds.report.timeline import elapsed
    from pipeline.core.steps import OUTER
    from pipeline.core.text import human_bytes, human_seconds

    directory = settings.build_dir() / manifest.name
    place = _short(directory)
    again = all(step.reused for step in manifest.steps.values())
    did = "nothing to do for" if again else "built"
    took = "" if again else f" in {human_seconds(elapsed(manifest.steps))}"
    lines = [f"{did} {manifest.name}{took}: kernel {manifest.boot.kernel_version}"]
    for record in manifest.artifacts:
        size = human_bytes(record.size)
        lines += [f"  {record.role:10}  {place / record.file}  {size}  sha256 {record.sha256}"]
    if not manifest.checks:
        lines.append("  boot check  skipped")
    for check in manifest.checks:
        of = " of the disk" if check.target == "disk" else ""
        if check.passed:
            lines.append(
                f"  boot check  {len(check.assertions)} assertions{of} hold, "
                f"SSH after {human_seconds(check.seconds_to_ssh)}"
            )
    spent = sorted(
        ((name, step) for name, step in manifest.steps.items() if name in OUTER),
        key=lambda pair: -pair[1].seconds,
    )
    if not again:
        words = [f"{n} {'reused' if s.reused else human_seconds(s.seconds)}" for n, s in spent]
        lines.append("  time        " + ", ".join(words))
    return [*lines, f"  report      {place / 'report.html'}"]


def _short(path: Path) -> Path:
    """As seen from the current directory, where that is shorter."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


@command(
    positional=["name"],
    help=help_for(
        "json",
        "quiet",
        "verbose",
        "debug",
        name="a finished build, or an ami id of the local catalogue",
        whole_disk="boot the build's bootable disk through its own boot loader, BIOS and UEFI",
        user="who gets the SSH key, where that is not the build's own",
        keep="keep what the guests wrote beside the consoles",
        evidence="where consoles and pictures go; by default build/NAME/verify (or verify-disk)",
    ),
)
def verify(
    c: Context,
    name: str,
    whole_disk: bool = False,
    user: str = "",
    keep: bool = False,
    evidence: str = "",
    json: bool = False,
    quiet: bool = False,
    verbose: bool = False,
    debug: bool = False,
) -> None:
    """Boot a finished build or a registered triple again and say what holds."""
    with session(quiet=quiet, as_json=json, debug=debug) as view:
        from pipeline.workflows import verify

        target = verify.find_target(name, whole_disk=whole_disk, user=user)
        place = Path(evidence) if evidence else target.evidence
        echo = view.progress.say if verbose else None
        report = verify.check(target, place, view.progress, view.secrets, keep=keep, echo=echo)
        marks = {True: "holds", False: "FAILS"}
        view.result(
            _report(report),
            [
                f"{marks[a.passed] if a.reached else 'not reached':12}{a.name}: {a.detail}"
                for a in report.assertions
            ],
        )
        if not report.passed:
            sys.exit(VerifyError.exit_code)


def _report(report: VerifyReport) -> dict[str, Any]:
    """The outcome for --json: paths as text."""
    paths = {
        name: [str(path) for path in getattr(report, name)] for name in ("evidence", "overlays")
    }
    return asdict(report) | paths


@command(
    positional=["name"],
    help=help_for(
        "debug",
        name="a finished build, or an ami id of the local catalogue",
        whole_disk="boot the build's bootable disk through its own boot loader",
    ),
)
def console(c: Context, name: str, whole_disk: bool = False, debug: bool = False) -> None:
    """Boot a finished build on this terminal; what the guest writes is thrown away."""
    with session(debug=debug) as view:
        from pipeline.workflows import verify

        target = verify.find_target(name, whole_disk=whole_disk, user="")
        verify.console(target, view.progress, view.secrets)


@command(help=help_for("json"))
def recipes(c: Context, json: bool = False) -> None:
    """List what can be built."""
    with session(as_json=json) as view:
        from pipeline.builders.recipes import load_recipes

        known = load_recipes(settings.recipes_file())
        width = max(map(len, known), default=0)
        view.result(
            {name: recipe.model_dump(mode="json") for name, recipe in known.items()},
            [f"{name:{width}}  {recipe.description}" for name, recipe in known.items()],
        )
