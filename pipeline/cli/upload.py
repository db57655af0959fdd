"""Registering images: upload, unbundle."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from invoke.context import Context

from pipeline.cli import BUILT, MANY, PLANNED, command, help_for, variables
from pipeline.cli.session import View, front_door
from pipeline.core import settings
from pipeline.core.errors import CloudError, InputError


@command(
    iterable=["recipe", "cloud", "tag", "property", "member", "region"],
    help=help_for(
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
        region="a further region to copy to, where the cloud has such a call; may be repeated",
        min_disk="GiB an instance's disk must have",
        min_ram="MiB an instance's memory must have",
        replace="the same as --keep 1: older generations go once the new one is proved",
        keep="prune own generations older than the newest N after the new one is proved",
        whole_disk="register the bootable whole disk in place of the triple",
        unverified="upload a build whose boot check failed or was skipped; its images say so",
    ),
)
def upload(
    c: Context,
    recipe: Iterable[str] = MANY,
    cloud: Iterable[str] = MANY,
    visibility: str = "private",
    protected: bool = False,
    hidden: bool = False,
    tag: Iterable[str] = MANY,
    property: Iterable[str] = MANY,  # the option's name
    member: Iterable[str] = MANY,
    region: Iterable[str] = MANY,
    min_disk: int = 0,
    min_ram: int = 0,
    replace: bool = False,
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
        from pipeline.builds.report import write_report
        from pipeline.clouds.protocol import PublishOptions

        if visibility not in ("private", "shared", "community", "public"):
            raise InputError(
                "use the visibility",
                visibility,
                why="it is none of private, shared, community and public",
                next_step="Use one of these",
            )
        options = PublishOptions(
            visibility=visibility,  # type: ignore[arg-type] # checked above
            protected=protected,
            hidden=hidden,
            tags=tuple(tag),
            members=tuple(member),
            properties=variables(property),
            keep=keep or (1 if replace else None),
            min_disk_gib=min_disk,
            min_ram_mib=min_ram,
            regions=tuple(region),
            whole_disk=whole_disk,
        )
        names = [*recipe] or [*c.config.get(BUILT, [])]
        planned = {**c.config.get(PLANNED, {})}
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
        answers = [
            _upload(view, name, tuple(cloud), options, unverified, dry_run)
            if planned.get(name, True)
            else _foreseen(name, tuple(cloud))
            for name in names
        ]
        view.result(
            [answer for answer, _ in answers], [line for _, lines in answers for line in lines]
        )
        for name in () if dry_run else names:
            write_report(settings.build_dir() / name)  # it names the ids
        if any("error" in outcome for answer, _ in answers for outcome in answer["clouds"]):
            sys.exit(CloudError.exit_code)


def _foreseen(name: str, words: tuple[str, ...]) -> tuple[dict[str, Any], list[str]]:
    """What can be said of the upload of a build that is only planned; no cloud is asked."""
    from pipeline.clouds.registry import open_clouds

    step = "register the three files once they are built; what is there already is found by content"
    plan = {cloud.name: [step] for cloud in open_clouds(words)}
    return {"name": name, "plan": plan, "clouds": []}, [f"{cloud}: {step}" for cloud in plan]


def _upload(
    view: View, name: str, words: tuple[str, ...], options: Any, unverified: bool, dry_run: bool
) -> tuple[dict[str, Any], list[str]]:
    from pipeline.builds.manifest import read_manifest
    from pipeline.clouds.registry import open_clouds
    from pipeline.workflows import publish

    directory = settings.build_dir() / name
    manifest = read_manifest(directory)
    images = manifest.image(directory)
    if not (images.verified(whole_disk=options.whole_disk) or unverified):
        raise InputError(
            "upload the build",
            name,
            why="its boot check failed or was skipped",
            next_step=f"Run `invoke build {name}`, or add --unverified to register it marked so",
        )
    for failed in manifest.failed_checks:
        if failed.target != ("disk" if options.whole_disk else "triple"):
            view.progress.warn(f"the boot check of {name}'s {failed.target} failed")
    clouds = open_clouds(words)
    publish.confirm(images, directory, whole_disk=options.whole_disk, progress=view.progress)
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
            error = view.complain(f"{outcome.cloud}: {outcome.error}")
            data.append({"cloud": outcome.cloud, "error": error.removeprefix(f"{outcome.cloud}: ")})
    return {"name": name, "clouds": data}, lines


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
    with front_door(quiet=quiet, as_json=json, debug=debug) as view:
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
