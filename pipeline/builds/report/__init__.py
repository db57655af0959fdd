"""report.html: one page about one finished build, readable without a network.

Everything in it comes from the build's directory: the manifest, the inventory, what the stages
left as evidence, the builds before it and the registrations. Guest strings are hostile: they pass
`markup.tag`, which escapes them, and the page's own policy (CSP) runs no script but ours.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.builds import history, registrations
from pipeline.builds.compare import compare, read_build
from pipeline.builds.report.evidence import Console, gather, read_console
from pipeline.builds.report.page import Facts, render
from pipeline.host.files import write_whole

FILE = "report.html"
COMMANDS = "commands.log"


def write_report(directory: Path) -> Path:
    """Write report.html of the finished build in `directory` and return its path.

    InputError when there is no finished build there.
    """
    path = directory / FILE
    write_whole(path, render(read_facts(directory)))
    return path


def read_facts(directory: Path) -> Facts:
    """What the page shows."""
    build = read_build(directory)
    # A kept build of this very digest is this one, written down again.
    before = next(
        (
            old
            for old in map(read_build, history.entries(directory))
            if old.manifest.recipe.digest != build.manifest.recipe.digest
        ),
        None,
    )
    return Facts(
        build=build,
        comparison=compare(before, build) if before is not None else None,
        registrations=tuple(registrations.registrations(directory / registrations.FILE)),
        install=gather(directory / "install"),
        verify=gather(directory / "verify"),
        commands=_text(directory / COMMANDS),
        answers=next(
            (
                read_console(path)
                for pattern in ("*.ks", "*.cfg")
                for path in sorted(directory.glob(pattern))
                if path.is_file() and not path.is_symlink()
            ),
            None,
        ),
    )


def _text(path: Path) -> Console | None:
    return read_console(path) if path.is_file() else None
