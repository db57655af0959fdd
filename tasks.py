"""The front door: `invoke --list` shows what can be done, `invoke --help TASK` how.

This module parses words and prints answers; pipeline/ does the work.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from invoke.collection import Collection
from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task

from pipeline import settings
from pipeline.errors import CloudError, HostError, InputError, VerifyError
from pipeline.frontdoor import View, front_door

ROOT = Path(__file__).resolve().parent
_BUILT = "built"  # key in Invoke's configuration: names of the builds of this run, in order
# Default of an option that may be repeated: Invoke takes an option's kind from its default, and
# with a tuple it would take a word for its letters. It adds to copies only.
_MANY: list[str] = []

_HELP = {
    "recipe": "name of a recipe, see `invoke recipes`",
    "json": "print the result as JSON on standard output",
    "quiet": "show warnings and errors only",
    "debug": "show a traceback with an error",
    "dry_run": "print what would be done; change nothing",
    "accelerator": "kvm or tcg in place of the measured one",
}


def _help(*names: str, **own: str) -> dict[str, str]:
    return {name: _HELP[name] for name in names} | own


def _variables(words: Iterable[str]) -> dict[str, str]:
    pairs = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (name and equals):
            raise InputError(
                "use the variable", word, why="it is not of the form NAME=VALUE", next_step=""
            )
        pairs[name] = value
    return pairs


@task(
    positional=["recipe"],
    iterable=["variable"],
    help=_help(
        "recipe",
        "json",
        "quiet",
        "debug",
        "dry_run",
        "accelerator",
        disk="start from this installed raw or qcow2 disk; nothing is installed, it is only read",
        root="which volume is the root, VG/LV or a partition number, if there are several",
        variable="NAME=VALUE for the kickstart, may be repeated",
        backend="edit with guestfs or e2fsprogs in place of choosing",
        no_verify="do not boot the result; `upload` will refuse it unless told otherwise",
        disk_image="also make a bootable whole disk",
        fresh="reuse nothing of earlier runs",
    ),
)
def build(
    c: Context,
    recipe: str,
    disk: str = "",
    root: str = "",
    variable: Iterable[str] = _MANY,
    backend: str = "auto",
    accelerator: str = "",
    no_verify: bool = False,
    disk_image: bool = False,
    fresh: bool = False,
    dry_run: bool = False,
    json: bool = False,
    quiet: bool = False,
    debug: bool = False,
) -> None:
    """Install, take the root filesystem out, make it an image, boot it to prove it works."""
    with front_door(quiet=quiet, as_json=json, debug=debug) as view:
        from pipeline.build import build
        from pipeline.recipe import choose_recipe, load_recipes
        from pipeline.request import BuildRequest, plan

        if backend not in ("auto", "guestfs", "e2fsprogs"):
            raise InputError(
                "edit with", backend, why="backends are auto, guestfs and e2fsprogs", next_step=""
            )
        request = BuildRequest(
            recipe=choose_recipe(load_recipes(settings.recipes_file()), recipe),
            disk=Path(disk) if disk else None,
            root=root,
            variables=_variables(variable),
            backend=backend,  # type: ignore[arg-type] # checked above
            accelerator=accelerator,
            verify=not no_verify,
            disk_image=disk_image,
            fresh=fresh,
        )
        if dry_run:
            steps = plan(request, view.progress, view.secrets)
            view.result({"plan": steps}, steps)
            return
        manifest = build(request, view.progress, view.secrets)
        c.config[_BUILT] = [*c.config.get(_BUILT, []), recipe]  # type: ignore[assignment] # a DataProxy takes any
        view.result(manifest.model_dump(mode="json"), _summary(manifest))


def _summary(manifest: Any) -> list[str]:
    directory = settings.build_dir() / manifest.name
    lines = [f"built {manifest.name}: kernel {manifest.boot.kernel_version}"]
    for role in ("machine", "kernel", "ramdisk", "disk"):
        record = getattr(manifest, role)
        if record is not None:
            lines.append(f"  {role:8}{directory / record.file}  sha256 {record.sha256}")
    checked = manifest.verification
    if checked is None:
        lines.append("  boot check: skipped")
    elif checked.passed:
        lines.append(
            f"  boot check: {len(checked.assertions)} assertions hold, "
            f"SSH after {checked.seconds_to_ssh:.0f} s"
        )
    spent = [
        f"{name} {'reused' if stage.reused else f'{stage.seconds:.1f} s'}"
        for name, stage in manifest.stages.items()
    ]
    return [*lines, "  time: " + ", ".join(spent)]


@task(
    iterable=["recipe", "cloud", "tag", "property", "member"],
    help=_help(
        "json",
        "quiet",
        "debug",
        "dry_run",
        recipe="a finished build; by default those of this run. May be repeated",
        cloud="local, glance:CLOUD, ec2:PROFILE or ebs:PROFILE; may be repeated",
        visibility="private, shared, community or public",
        protected="protect the images from deletion",
        hidden="register them hidden from listings",
        tag="a tag, may be repeated",
        property="NAME=VALUE, an image property, may be repeated",
        member="a project or account to share with, may be repeated",
        keep="prune own generations older than the newest N after the new one is proved",
        whole_disk="register the bootable whole disk in place of the triple",
        unverified="upload a build whose boot check failed or was skipped; its images say so",
    ),
)
def upload(
    c: Context,
    recipe: Iterable[str] = _MANY,
    cloud: Iterable[str] = _MANY,
    visibility: str = "private",
    protected: bool = False,
    hidden: bool = False,
    tag: Iterable[str] = _MANY,
    property: Iterable[str] = _MANY,  # the option's name
    member: Iterable[str] = _MANY,
    keep: int = 0,
    whole_disk: bool = False,
    unverified: bool = False,
    dry_run: bool = False,
    json: bool = False,
    quiet: bool = False,
    debug: bool = False,
) -> None:
    """Register kernel, ramdisk and machine image, linked, on one cloud or several."""
    with front_door(quiet=quiet, as_json=json, debug=debug) as view:
        from pipeline.clouds.protocol import PublishOptions
        from pipeline.report import write_report

        if visibility not in ("private", "shared", "community", "public"):
            raise InputError(
                "use the visibility",
                visibility,
                why="it is none of private, shared, community and public",
                next_step="",
            )
        options = PublishOptions(
            visibility=visibility,  # type: ignore[arg-type] # checked above
            protected=protected,
            hidden=hidden,
            tags=tuple(tag),
            members=tuple(member),
            properties=_variables(property),
            keep=keep or None,
            whole_disk=whole_disk,
        )
        names = [*recipe] or [*c.config.get(_BUILT, [])]
        if not names:
            raise InputError(
                "choose what to upload",
                why="no build was named and none was made in this run",
                next_step="Run `invoke build NAME upload` or `invoke upload --recipe NAME`",
            )
        answers = [
            _upload(view, name, tuple(cloud), options, unverified, dry_run) for name in names
        ]
        view.result(
            [answer for answer, _ in answers], [line for _, lines in answers for line in lines]
        )
        for name in () if dry_run else names:
            write_report(settings.build_dir() / name)  # it names the ids
        if any("error" in outcome for answer, _ in answers for outcome in answer["clouds"]):
            sys.exit(CloudError.exit_code)


def _upload(
    view: View, name: str, words: tuple[str, ...], options: Any, unverified: bool, dry_run: bool
) -> tuple[dict[str, Any], list[str]]:
    from pipeline import publish
    from pipeline.clouds.registry import open_clouds
    from pipeline.manifest import read_manifest

    directory = settings.build_dir() / name
    manifest = read_manifest(directory)
    images = manifest.image_set(directory)
    if not (images.verified or unverified):
        raise InputError(
            "upload the build",
            name,
            why="its boot check failed"
            if manifest.verification is not None
            else "its boot check was skipped",
            next_step=f"Run `invoke build {name}`, or add --unverified to register it marked so",
        )
    clouds = open_clouds(words)
    if dry_run:
        plans = publish.plan(images, clouds, options)
        calls = [f"{cloud}: {call}" for cloud, steps in plans.items() for call in steps]
        return {"name": name, "plan": plans, "clouds": []}, calls
    outcomes = publish.publish(
        images,
        clouds,
        options,
        record=directory / "registrations.json",
        progress=view.progress,
    )
    lines, data = [], []
    for outcome in outcomes:
        if outcome.registration is not None:
            known = outcome.registration
            lines += [
                f"{outcome.cloud}: {name} {'registered' if known.created else 'already there'}",
                *(
                    f"  {role:8}{identity}"
                    for role, identity in (
                        ("machine", known.machine_id),
                        ("kernel", known.kernel_id),
                        ("ramdisk", known.ramdisk_id),
                    )
                    if identity
                ),
            ]
            data.append({**asdict(known), "withdrawn": [asdict(w) for w in outcome.withdrawn]})
        else:
            print(f"{outcome.cloud}: {outcome.error}", file=sys.stderr)
            data.append({"cloud": outcome.cloud, "error": str(outcome.error)})
    return {"name": name, "clouds": data}, lines


@task(
    positional=["name"],
    help=_help(
        "json",
        "quiet",
        "debug",
        name="a finished build, or an ami id of the local catalogue",
        whole_disk="boot the build's bootable disk through its own boot loader, BIOS and UEFI",
        user="who gets the SSH key",
        keep="keep what the guests wrote beside the consoles",
        evidence="where consoles and screen pictures go; by default build/NAME/verify",
    ),
)
def verify(
    c: Context,
    name: str,
    whole_disk: bool = False,
    user: str = "root",
    keep: bool = False,
    evidence: str = "",
    json: bool = False,
    quiet: bool = False,
    debug: bool = False,
) -> None:
    """Boot a finished build or a registered triple again and say what holds."""
    with front_door(quiet=quiet, as_json=json, debug=debug) as view:
        from pipeline import recheck

        target = recheck.find_target(name, whole_disk=whole_disk, user=user)
        place = Path(evidence) if evidence else (target.build or Path(target.name)) / "verify"
        report = recheck.check(target, place, view.progress, view.secrets, keep=keep)
        marks = {True: "holds", False: "FAILS"}
        view.result(
            report.to_json(),
            [
                f"{marks[a.passed] if a.reached else 'not reached':12}{a.name}: {a.detail}"
                for a in report.assertions
            ],
        )
        if not report.passed:
            sys.exit(VerifyError.exit_code)


@task(
    positional=["name"],
    help=_help(
        "debug",
        name="a finished build, or an ami id of the local catalogue",
        whole_disk="boot the build's bootable disk through its own boot loader",
    ),
)
def console(c: Context, name: str, whole_disk: bool = False, debug: bool = False) -> None:
    """Boot a finished build on this terminal; what the guest writes is thrown away."""
    with front_door(debug=debug) as view:
        from pipeline import recheck

        target = recheck.find_target(name, whole_disk=whole_disk, user="root")
        recheck.console(target, view.progress, view.secrets)


@task(
    positional=["manifest"],
    help=_help(
        "json",
        "quiet",
        "debug",
        manifest="a bundle's manifest, its parts beside it, or s3://BUCKET/KEY",
        out="the file to write the image to",
        profile="the AWS profile that reads s3://",
        private_key="opens the bundle; by default this user's own key",
        signer="certificate or public key of whoever signed it; by default this user's own",
    ),
)
def unbundle(
    c: Context,
    manifest: str,
    out: str,
    profile: str = "",
    private_key: str = "",
    signer: str = "",
    json: bool = False,
    quiet: bool = False,
    debug: bool = False,
) -> None:
    """Check an EC2 bundle, every digest and the signature, and give the image back."""
    with front_door(quiet=quiet, as_json=json, debug=debug) as view:
        from pipeline.clouds.bundle_source import unbundle_image

        image = unbundle_image(
            manifest,
            Path(out),
            progress=view.progress,
            profile=profile,
            private_key=Path(private_key) if private_key else None,
            signer=Path(signer) if signer else None,
        )
        view.result(
            {"name": image.name, "bytes": image.size, "file": out},
            [f"{out}: {image.name}, {image.size} bytes, every digest and the signature hold"],
        )


@task(help=_help("json"))
def recipes(c: Context, json: bool = False) -> None:
    """List what can be built."""
    with front_door(as_json=json) as view:
        from pipeline.recipe import load_recipes

        known = load_recipes(settings.recipes_file())
        width = max(map(len, known), default=0)
        view.result(
            {name: recipe.model_dump(mode="json") for name, recipe in known.items()},
            [f"{name:{width}}  {recipe.description}" for name, recipe in known.items()],
        )


@task(
    help=_help(
        "json",
        "debug",
        full="also launch the editing appliance: up to minutes without acceleration",
    )
)
def doctor(c: Context, full: bool = False, json: bool = False, debug: bool = False) -> None:
    """Show what this host has and lacks for each task; exit code 3 when it lacks what is needed."""
    with front_door(quiet=True, as_json=json, debug=debug) as view:
        import tempfile

        from pipeline import doctor
        from pipeline.run import Runner
        from pipeline.stage import Tools

        with tempfile.TemporaryDirectory() as scratch, Runner(secrets=view.secrets) as runner:
            tools = Tools(runner, view.progress, Path(scratch))
            checks = list(doctor.examine(tools, full=full))
        view.result([asdict(check) for check in checks], doctor.lines(checks))
        if doctor.failed(checks):
            sys.exit(HostError.exit_code)


@task(name="list", help=_help("json", "debug"))
def list_(c: Context, json: bool = False, debug: bool = False) -> None:
    """List the builds and what is registered where."""
    with front_door(quiet=True, as_json=json, debug=debug) as view:
        from pipeline import housekeeping

        known = housekeeping.summaries(settings.build_dir())
        view.result([asdict(one) for one in known], housekeeping.summary_lines(known))


@task(
    positional=["name"],
    help=_help("json", "debug", name="a finished build: NAME, NAME@previous or NAME@DIGEST"),
)
def show(c: Context, name: str, json: bool = False, debug: bool = False) -> None:
    """Show one finished build: what it was made from, its files, its boot check, its ids."""
    with front_door(quiet=True, as_json=json, debug=debug) as view:
        from pipeline import history, housekeeping
        from pipeline.manifest import read_manifest

        directory = history.locate(settings.build_dir(), name)
        manifest = read_manifest(directory)
        known = housekeeping.summary(directory)
        data = {
            "manifest": manifest.model_dump(mode="json"),
            "registrations": [asdict(entry) for entry in known.registered],
        }
        view.result(data, housekeeping.show_lines(manifest, known))


@task(
    positional=["old", "new"],
    help=_help(
        "json",
        "debug",
        old="a finished build: NAME, NAME@previous or NAME@DIGEST",
        new="the one to compare it with",
    ),
)
def diff(c: Context, old: str, new: str, json: bool = False, debug: bool = False) -> None:
    """Compare two finished builds: packages, files, sizes, manifest."""
    with front_door(quiet=True, as_json=json, debug=debug) as view:
        from pipeline import history, housekeeping
        from pipeline.comparison import compare, read_build

        sides = (read_build(history.locate(settings.build_dir(), word)) for word in (old, new))
        found = compare(*sides)
        view.result(asdict(found), housekeeping.comparison_lines(found))


@task(
    iterable=["name", "cloud"],
    help=_help(
        "json",
        "quiet",
        "debug",
        name="only this build; may be repeated",
        cloud="with --keep: this cloud in place of those the builds are registered on",
        keep="withdraw registered generations older than the newest N",
        disks="also delete installed disks: the next build installs again",
        yes="delete what is more than scratch; without it only a list is printed",
    ),
)
def prune(
    c: Context,
    name: Iterable[str] = _MANY,
    cloud: Iterable[str] = _MANY,
    keep: int = 0,
    disks: bool = False,
    yes: bool = False,
    json: bool = False,
    quiet: bool = False,
    debug: bool = False,
) -> None:
    """Delete what killed runs left and, when asked, installed disks and old generations."""
    with front_door(quiet=quiet, as_json=json, debug=debug) as view:
        from pipeline import prune
        from pipeline.clouds.registry import open_clouds

        wish = prune.Wish(names=(*name,), clouds=(*cloud,), keep=keep, disks=disks)
        answer = prune.prune(
            settings.build_dir(), wish, lambda word: open_clouds([word])[0], view.progress, yes=yes
        )
        view.result(asdict(answer), prune.lines(answer))
        for failure in answer.failures:
            print(failure, file=sys.stderr)
        if answer.failures:
            raise Exit(code=7)


@task(positional=["name"], help=_help("debug", "json", name="a finished build"))
def report(c: Context, name: str, json: bool = False, debug: bool = False) -> None:
    """Write build/NAME/report.html anew."""
    with front_door(quiet=True, as_json=json, debug=debug) as view:
        from pipeline import history
        from pipeline.report import write_report

        path = write_report(history.locate(settings.build_dir(), name))
        view.result({"report": str(path)}, [str(path)])


@task(
    help={
        "unit": "the unit layer only: seconds",
        "long": "also the tests that take tens of minutes",
        "k": "only tests whose name matches this pytest expression",
    }
)
def test(c: Context, unit: bool = False, long: bool = False, k: str = "") -> None:
    """Run the tests: the unit layer, then everything that starts real programs."""
    selection = f" -k '{k}'" if k else ""
    pytest = f"{sys.executable} -m pytest -q{selection}"
    _run(c, f"{pytest} -m 'not integration and not long' -n 2", nothing_is_fine=bool(k))
    if not unit:
        marks = "integration or long" if long else "integration and not long"
        _run(c, f"{pytest} -m '{marks}' --durations=15", nothing_is_fine=bool(k))


@task(name="format")
def format_(c: Context) -> None:
    """Format the Python code."""
    _run(c, f"{sys.executable} -m ruff check --fix-only -q .")
    _run(c, f"{sys.executable} -m ruff format .")


@task
def docs(c: Context) -> None:
    """Write the generated documents: docs/configuration.md, docs/manifest.schema.json."""
    from pipeline.manifest import json_schema
    from pipeline.reference import configuration

    (ROOT / "docs" / "configuration.md").write_text(configuration(namespace))
    (ROOT / "docs" / "manifest.schema.json").write_text(json_schema())


@task
def check(c: Context, unit: bool = False) -> None:
    """Format, lint, types, shell scripts, then all tests: what must pass before a change lands."""
    python = sys.executable
    _run(c, f"{python} -m ruff format --check .")
    _run(c, f"{python} -m ruff check .")
    _run(c, f"{python} -m mypy")
    scripts = " ".join(str(path.relative_to(ROOT)) for path in _shell_scripts())
    _run(c, f"shellcheck {scripts}")
    test(c, unit=unit)


def _shell_scripts() -> list[Path]:
    """Files whose first line names a shell."""
    candidates = [ROOT / "invoke", ROOT / ".ci" / "run"]
    for directory in ("templates", "setup", "tests"):
        candidates += sorted(path for path in (ROOT / directory).rglob("*") if path.is_file())
    return [path for path in candidates if _is_shell(path)]


def _is_shell(path: Path) -> bool:
    with path.open("rb") as file:
        first = file.readline(100)
    return first.startswith(b"#!") and first.rstrip().endswith((b"sh", b"bash"))


def _run(c: Context, command: str, nothing_is_fine: bool = False) -> None:
    with c.cd(str(ROOT)):
        done = c.run(command, warn=True, pty=sys.stdout.isatty(), echo=True, in_stream=False)
    status = done.exited if done else 1
    if status and not (nothing_is_fine and status == 5):  # pytest: 5 is "no tests collected"
        raise Exit(code=status)


namespace = Collection(
    build,
    upload,
    verify,
    console,
    unbundle,
    recipes,
    doctor,
    list_,
    show,
    diff,
    prune,
    report,
    docs,
    test,
    format_,
    check,
)
