"""The tasks of the command line, gathered for Invoke."""

from __future__ import annotations

from invoke.collection import Collection

from pipeline.cli.build import build, console, recipes, verify
from pipeline.cli.convert import convert
from pipeline.cli.look import diff, doctor, layers, list_, prune, report, sbom, show
from pipeline.cli.packages import genfs
from pipeline.cli.upload import unbundle, upload
from pipeline.core.resources import is_checkout


def namespace() -> Collection:
    """All tasks; those for the work on the product itself only where its files are."""
    tasks = [
        build,
        genfs,
        convert,
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
        layers,
        report,
        sbom,
    ]
    if is_checkout():
        from pipeline.cli.develop import (
            benchmark,
            check,
            compatibility,
            docs,
            faults,
            format_,
            test,
        )

        tasks += [docs, test, format_, check, benchmark, compatibility, faults]
    return Collection(*tasks)
