"""Registering images: upload, unbundle."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from invoke.context import Context

from pipeline.cli import BUILT, MANY, PLANNED, command, help_for, variables, whole_number
from pipeline.cli.session import View, session
from pipeline.core import settings
from pipeline.core.errors import ExitCode, InputError, PipelineError

if TYPE_CHECKING:
    from pipeline.clouds.protocol import Cloud, PublishOptions
    from pipeline.core.image import Image


@command(
    iterable=["recipe", "cloud", "tag", "property", "member", "region"],
    help=help_for(
        "json",
        "quiet",
        "debug",
        "dry_run",
        recipe="a finished build; by default those of this run. May be repeated",
        cloud="local, glance:CLOUD, ec2:PROFILE or ebs:PROFILE; may be repeated",
        visibility="private, shared, community or public; new images are private",
        protected="protect the images from deletion",
        unprotected="lift the protection of images that are there",
        hidden="register them hidden from listings",
        shown="show images that are there and hidden",
        tag="a tag, may be repeated",
        property="NAME=VALUE, an image property, may be repeated",
        member="a project or account to share with, may be repeated",
        region="a further region to copy to, where the cloud has such a call; may be repeated",
        min_disk="GiB an instance's disk must have",
        min_ram="MiB an instance's memory must have",
        replace="the same as --keep 1: older generations go once the new one is proved",
        keep="prune own generations older than the newest N after the new one is proved",
        store="the cloud's store for the images, where it has several to choose from",
        whole_disk="register the bootable whole disk in place of the triple",
        unverified="upload a build whose boot check failed or was skipped; its images say so",
    ),
)
def upload(
    c: Context,
    recipe: Iterable[str] = MANY,
    cloud: Iterable[str] = MANY,
    visibility: str = "",
    protected: bool = False,
    unprotected: bool = False,
    hidden: bool = False,
    shown: bool = False,
    tag: Iterable[str] = MANY,
    property: Iterable[str] = MANY,  # the option's name
    member: Iterable[str] = MANY,
    region: Iterable[str] = MANY,
    min_disk: str = "",
    min_ram: str = "",
    replace: bool = False,
    keep: str = "",
    store: str = "",
    whole_disk: bool = False,
    unverified: bool = False,
    dry_run: bool = False,
    json: bool = False,
    quiet: bool = False,
    debug: bool = False,
) -> None:
    """Register kernel, ramdisk and machine image, linked, on one cloud or several."""
    with session(quiet=quiet, as_json=json, debug=debug) as view:
        from pipeline.clouds.protocol import PublishOptions
        from pipeline.clouds.registry import open_clouds
        from pipeline.workflows.publish import require_options

        options = PublishOptions(
            visibility=_visibility(visibility),
            protected=_either("--protected", protected, "--unprotected", unprotected),
            hidden=_either("--hidden", hidden, "--shown", shown),
            tags=tuple(tag),
            members=tuple(member),
            properties=variables(property),
            keep=whole_number("--keep", keep, "generations", least=1) or (1 if replace else None),
            min_disk_gib=whole_number("--min-disk", min_disk, "GiB"),
            min_ram_mib=whole_number("--min-ram", min_ram, "MiB"),
            regions=tuple(region),
            whole_disk=whole_disk,
            store=store,
        )
        require_options(options)
        planned: Mapping[str, bool] = {**c.config.get(PLANNED, {})}
        names = _names([*recipe], [*c.config.get(BUILT, [])], planned, dry_run=dry_run)
        wanted = [name for name in names if planned.get(name, True)]
        ready = {name: _ready(view, name, options, unverified) for name in wanted}  # all, then sent
        clouds = open_clouds(tuple(cloud))
        answers = [
            _upload(view, name, ready[name], clouds, options, dry_run)
            if name in ready
            else _foreseen(name, clouds)
            for name in names
        ]
        _end(view, answers, () if dry_run else tuple(ready))


def _names(
    given: list[str], built: list[str], planned: Mapping[str, bool], *, dry_run: bool
) -> list[str]:
    """The builds to upload, each once: those given, else those of this run."""
    names = given or built
    if not names and planned and not dry_run:
        raise InputError(
            "upload",
            ", ".join(planned),
            why="it was only planned in this run",
            next_step="Add --dry-run to `upload`, too, or leave it out of `build`",
        )
    names = names or [*planned]
    if not names:
        raise InputError(
            "choose what to upload",
            why="no build was named and none was made in this run",
            next_step="Run `invoke build NAME upload` or `invoke upload --recipe NAME`",
        )
    return list(dict.fromkeys(names))


_Answer = tuple[dict[str, Any], list[str], list[int]]
"""Of one build: for --json, the lines for people, the exit codes of the clouds that failed."""


def _end(view: View, answers: Sequence[_Answer], uploaded: Sequence[str]) -> None:
    """Show the answers; the process ends with the failures' exit code where there are any."""
    for name in uploaded:
        _write_report(view, name)  # it names the ids
    view.result(
        [data for data, _, _ in answers], [line for _, lines, _ in answers for line in lines]
    )
    failed = {code for _, _, codes in answers for code in codes}
    if failed:
        # Of several kinds of failures the clouds' own is told.
        sys.exit(failed.pop() if len(failed) == 1 else ExitCode.CLOUD)


def _visibility(word: str) -> Literal["private", "shared", "community", "public"] | None:
    match word:
        case "private" | "shared" | "community" | "public":
            return word
        case "":
            return None
    raise InputError(
        "use the visibility",
        word,
        why="it is none of private, shared, community and public",
        next_step="Use one of these",
    )


def _either(yes: str, given: bool, no: str, taken: bool) -> bool | None:
    """One of two options that exclude each other; None when neither was given."""
    if given and taken:
        raise InputError(
            "use both", f"{yes} and {no}", why="they contradict each other", next_step="Leave one"
        )
    return given or (False if taken else None)


def _write_report(view: View, name: str) -> None:
    """The build's page anew; what stands in the way of that is no failure of the upload."""
    from pipeline.builds.report import write_report

    try:
        write_report(settings.build_dir() / name)
    except (PipelineError, OSError) as error:
        view.progress.warn(f"report.html of {name} does not name the new ids: {error}")


def _ready(view: View, name: str, options: PublishOptions, unverified: bool) -> Image:
    """The build's files, fit to be uploaded; InputError otherwise."""
    from pipeline.builds.manifest import read_manifest
    from pipeline.clouds.whole_disk import require_disk
    from pipeline.workflows.publish import confirm, require_options

    directory = settings.build_dir() / name
    manifest = read_manifest(directory)
    images = manifest.image(directory)
    if options.whole_disk:
        require_disk(images, "any cloud")
    if not (images.verified(whole_disk=options.whole_disk) or unverified):
        raise InputError(
            "upload the build",
            name,
            why="its boot check failed or was skipped",
            next_step=f"Run `invoke build {name}`, or add --unverified to register it marked so",
        )
    require_options(options, images)
    for failed in manifest.failed_checks:
        if failed.target != ("disk" if options.whole_disk else "triple"):
            view.progress.warn(f"the boot check of {name}'s {failed.target} failed")
    confirm(images, directory, whole_disk=options.whole_disk, progress=view.progress)
    return images


def _foreseen(name: str, clouds: Sequence[Cloud]) -> _Answer:
    """What can be said of the upload of a build that is only planned; no cloud is asked."""
    step = "register the three files once they are built; what is there already is found by content"
    plan = {cloud.name: [step] for cloud in clouds}
    return {"name": name, "plan": plan, "clouds": []}, [f"{cloud}: {step}" for cloud in plan], []


def _upload(
    view: View,
    name: str,
    images: Image,
    clouds: Sequence[Cloud],
    options: PublishOptions,
    dry_run: bool,
) -> _Answer:
    from pipeline.workflows import publish

    if dry_run:
        plans = publish.plan(images, clouds, options)
        calls = [f"{cloud}: {call}" for cloud, steps in plans.items() for call in steps]
        return {"name": name, "plan": plans, "clouds": []}, calls, []
    outcomes = publish.publish(
        images,
        clouds,
        options,
        record=settings.build_dir() / name / "registrations.json",
        progress=view.progress,
    )
    lines, data, codes = [], [], []
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
            data.append(
                {
                    **asdict(known),
                    "withdrawn": [asdict(w) for w in outcome.withdrawn],
                    "unrecorded": outcome.unrecorded,
                }
            )
        elif outcome.error is not None:
            codes.append(outcome.error.exit_code)
            error = view.complain(f"{outcome.cloud}: {outcome.error}")
            data.append({"cloud": outcome.cloud, "error": error.removeprefix(f"{outcome.cloud}: ")})
    return {"name": name, "clouds": data}, lines, codes


@command(
    positional=["manifest"],
    help=help_for(
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
    out: str = "",
    profile: str = "",
    private_key: str = "",
    signer: str = "",
    json: bool = False,
    quiet: bool = False,
    debug: bool = False,
) -> None:
    """Check an EC2 bundle, every digest and the signature, and give the image back."""
    with session(quiet=quiet, as_json=json, debug=debug) as view:
        from pipeline.clouds.aws.unbundle import unbundle_image

        if not out:
            raise InputError(
                "give the image back",
                why="no file to write it to was named",
                next_step="Add --out FILE",
            )
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
