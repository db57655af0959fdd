"""Looking and tidying: doctor, list, show, diff, prune, layers, report, sbom."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import asdict
from json import loads
from pathlib import Path
from typing import TYPE_CHECKING

from invoke.context import Context

from pipeline.cli import MANY, command, help_for, whole_number
from pipeline.cli.session import end, session
from pipeline.core import settings
from pipeline.core.errors import ExitCode, HostError, InputError
from pipeline.host.files import write_whole

if TYPE_CHECKING:
    from pipeline.builds.workspace import Document


@command(
    help=help_for(
        "json",
        "debug",
        full="also launch the editing appliance: up to minutes without acceleration",
    )
)
def doctor(c: Context, full: bool = False, json: bool = False, debug: bool = False) -> None:
    """Show what this host has and lacks for each task; exit code 3 when it lacks what is needed."""
    with session(quiet=True, as_json=json, debug=debug) as view:
        import tempfile

        from pipeline.host.context import Tools
        from pipeline.host.programs import Runner
        from pipeline.workflows import doctor

        with tempfile.TemporaryDirectory() as scratch, Runner(secrets=view.secrets) as runner:
            tools = Tools(runner, view.progress, Path(scratch))
            checks = list(doctor.examine(tools, full=full))
        view.result([asdict(check) for check in checks], doctor.lines(checks))
        if doctor.failed(checks):
            sys.exit(HostError.exit_code)


@command(name="list", help=help_for("json", "debug"))
def list_(c: Context, json: bool = False, debug: bool = False) -> None:
    """List the builds and what is registered where."""
    with session(quiet=True, as_json=json, debug=debug) as view:
        from pipeline.builds import listing

        known = listing.summaries(settings.build_dir())
        view.result([asdict(one) for one in known], listing.summary_lines(known))


@command(
    positional=["name"],
    help=help_for("json", "debug", name="a finished build: NAME, NAME@previous or NAME@DIGEST"),
)
def show(c: Context, name: str, json: bool = False, debug: bool = False) -> None:
    """Show one finished build: what it was made from, its files, its boot check, its ids."""
    with session(quiet=True, as_json=json, debug=debug) as view:
        from pipeline.builds import history, listing
        from pipeline.builds.manifest import read_manifest

        directory = history.locate(settings.build_dir(), name)
        manifest = read_manifest(directory)
        known = listing.summary(directory)
        data = {
            "manifest": manifest.model_dump(mode="json"),
            "registrations": [asdict(entry) for entry in known.registered],
        }
        view.result(data, listing.show_lines(manifest, known))


@command(
    positional=["old", "new"],
    help=help_for(
        "json",
        "debug",
        old="a finished build: NAME, NAME@previous or NAME@DIGEST",
        new="the one to compare it with",
    ),
)
def diff(c: Context, old: str, new: str, json: bool = False, debug: bool = False) -> None:
    """Compare two finished builds: packages, files, sizes, manifest."""
    with session(quiet=True, as_json=json, debug=debug) as view:
        from pipeline.builds import history, listing
        from pipeline.builds.compare import compare, read_build

        sides = (read_build(history.locate(settings.build_dir(), word)) for word in (old, new))
        found = compare(*sides)
        view.result(asdict(found), listing.comparison_lines(found))


@command(
    iterable=["name", "cloud"],
    help=help_for(
        "json",
        "quiet",
        "debug",
        name="only this build; may be repeated",
        cloud="with --keep: this cloud in place of those the builds are registered on",
        keep="withdraw registered generations older than the newest N",
        disks="also delete installed disks: the next build installs again",
        yes="delete what is more than scratch; without it that is only listed",
    ),
)
def prune(
    c: Context,
    name: Iterable[str] = MANY,
    cloud: Iterable[str] = MANY,
    keep: str = "",
    disks: bool = False,
    yes: bool = False,
    json: bool = False,
    quiet: bool = False,
    debug: bool = False,
) -> None:
    """Delete what killed runs left and, when asked, installed disks and old generations."""
    with session(quiet=quiet, as_json=json, debug=debug) as view:
        from pipeline.clouds.registry import open_clouds
        from pipeline.workflows import prune

        wish = prune.Wish(
            names=(*name,),
            clouds=(*cloud,),
            keep=whole_number("--keep", keep, "generations", least=1) or 0,
            disks=disks,
        )
        answer = prune.prune(
            settings.build_dir(), wish, lambda word: open_clouds([word])[0], view.progress, yes=yes
        )
        failures = [view.fail("", failure) for failure in answer.failures]
        data = {
            "dry_run": answer.dry_run,
            "found": [asdict(one) for one in answer.found],
            "deleted": [asdict(one) for one in answer.deleted],
            "failures": failures,
        }
        view.result(data, prune.lines(answer))
        # A cloud of the record that nobody has set up any more is no wrong word of this command's.
        codes = [failure.exit_code for failure in answer.failures]
        end(ExitCode.CLOUD if code == ExitCode.INPUT else code for code in codes)


@command(
    help=help_for(
        "json",
        "debug",
        verify="read every layer whole; set aside what is damaged",
        prune="delete what is long unused, and the least recently used of too many",
        dry_run="with --prune: only list what would go",
    )
)
def layers(
    c: Context,
    verify: bool = False,
    prune: bool = False,
    dry_run: bool = False,
    json: bool = False,
    debug: bool = False,
) -> None:
    """List the layers that systems made of packages share, and tidy them."""
    with session(quiet=True, as_json=json, debug=debug) as view:
        import tempfile

        from pipeline.host.context import Tools
        from pipeline.host.programs import Runner
        from pipeline.workflows import layers

        if dry_run and not prune:
            raise InputError("use --dry-run", why="it belongs to --prune")
        with tempfile.TemporaryDirectory() as scratch, Runner(secrets=view.secrets) as runner:
            store = layers.open_store(Tools(runner, view.progress, Path(scratch)))
            if prune:
                gone = layers.prune(store, dry_run=dry_run)
                data = [asdict(one) | {"path": str(one.path)} for one in gone]
                view.result(data, layers.garbage_lines(gone, dry_run=dry_run))
                return
            found = layers.verify(store) if verify else layers.list_layers(store)
        view.result([asdict(one) for one in found], layers.lines(found, store.place))
        end(ExitCode.DISK for one in found if one.damage)


@command(positional=["name"], help=help_for("debug", "json", name="a finished build"))
def report(c: Context, name: str, json: bool = False, debug: bool = False) -> None:
    """Write build/NAME/report.html anew."""
    with session(quiet=True, as_json=json, debug=debug) as view:
        from pipeline.builds import history
        from pipeline.builds.report import write_report

        path = write_report(history.locate(settings.build_dir(), name))
        view.result({"report": str(path)}, [str(path)])


@command(
    positional=["name"],
    help=help_for(
        "json",
        "debug",
        name="a finished build: NAME, NAME@previous or NAME@DIGEST",
        format="spdx, cyclonedx or provenance: this one alone, to --out",
        out="a file, or - for standard output; with --format",
    ),
)
def sbom(
    c: Context, name: str, format: str = "", out: str = "-", json: bool = False, debug: bool = False
) -> None:
    """Write a build's bills of materials and provenance anew, or one of them elsewhere."""
    with session(quiet=True, as_json=json, debug=debug) as view:
        from pipeline.builds import bill, history

        directory = history.locate(settings.build_dir(), name)
        if format:
            form = _form(format)
            text = bill.read_documents(directory)[form]
            if out == "-":
                view.result(loads(text), text.splitlines())
                return
            write_whole(Path(out), text)
            view.result({form: out}, [out])
            return
        if out != "-" or "@" in name:
            raise InputError(
                "write the documents of",
                name,
                why="all of them go beside a build's manifest, and those of an earlier build or"
                " for another place are written one by one",
                next_step="Add --format spdx, --format cyclonedx or --format provenance",
            )
        paths = bill.rewrite(directory)
        view.result(
            {form: str(path) for form, path in paths.items()}, [str(p) for p in paths.values()]
        )


def _form(word: str) -> Document:
    from pipeline.builds.bill import FORMS

    for form in FORMS:
        if form == word:
            return form
    raise InputError(
        "write a document of the format",
        word,
        why=f"formats are {', '.join(FORMS)}",
        next_step="Use one of these",
    )
