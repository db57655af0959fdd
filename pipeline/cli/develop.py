"""Working on the product itself: test, check, faults, format, docs, benchmark, compatibility."""

from __future__ import annotations

import re
import shlex
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from invoke.context import Context
from invoke.exceptions import Exit

from pipeline.cli import MANY, command, whole_number
from pipeline.cli.session import session
from pipeline.core import resources
from pipeline.core.errors import InputError

ROOT = resources.PROJECT
_SIZE = re.compile(r"\d{1,3}(?:\.\d{1,3})?", re.ASCII)
_TESTS_FAILED, _NO_TESTS = 1, 5  # pytest's exit codes


@command(
    iterable=["only"],
    help={
        "unit": "the unit layer only: seconds",
        "long": "also the tests that take tens of minutes",
        "k": "only tests whose name matches this pytest expression",
        "only": "only this file, folder or FILE::NAME, of whatever layer; may be repeated",
    },
)
def test(
    c: Context,
    unit: bool = False,
    long: bool = False,
    k: str = "",
    only: Iterable[str] = MANY,
) -> None:
    """Run the tests: the unit layer, then everything that starts real programs."""
    _tests(c, unit=unit, long=long, k=k, only=[*only])


def _tests(
    c: Context,
    *,
    unit: bool = False,
    long: bool = False,
    k: str = "",
    only: Sequence[str] = (),
    coverage: bool = False,
) -> None:
    selection = f" -k '{k}'" if k else ""
    # A directory of this run's own: pytest's shared one is swept by every other run beside it.
    with tempfile.TemporaryDirectory(prefix="tests-", ignore_cleanup_errors=True) as place:
        pytest = f"{sys.executable} -m pytest -q --basetemp={place}/run{selection}"
        if only:
            _run(c, f"{pytest} {shlex.join(only)}")
            return
        measured = " --cov --cov-report=" if coverage else ""
        layer = "-m 'not integration and not long' -n 2"
        _run(c, f"{pytest} {layer}{measured}", nothing_is_fine=bool(k))
        if coverage:
            _run(c, f"{sys.executable} -m tests.coverage_floors")
        if unit:
            return
        layer = f"{pytest} -m '{'integration or long' if long else 'integration and not long'}'"
        # One worker a file: its fixtures are made once, and a guest keeps one core busy.
        status = _status(c, f"{layer} -n 2 --dist loadfile --durations=25")
        if status == _TESTS_FAILED:
            # Guests and servers beside each other can miss their bounds on a busy host. What
            # failed gets the machine to itself once; a test that fails there has failed.
            status = _status(c, f"{layer} --last-failed --last-failed-no-failures none")
        _end(status, nothing_is_fine=bool(k))


@command(name="format")
def format_(c: Context) -> None:
    """Format the Python code."""
    _run(c, f"{sys.executable} -m ruff check --fix-only -q .")
    _run(c, f"{sys.executable} -m ruff format .")


@command()
def docs(c: Context) -> None:
    """Write what is generated: configuration and schema in docs/reference, the package list."""
    # A process of its own: parsing this run's words has used up the options' help texts.
    _run(c, f"{sys.executable} -m pipeline.cli.reference")


@command(
    iterable=["only"],
    help={
        "only": "extraction, build, bundle, uploads or reuse; may be repeated",
        "sizes": "GiB of files on the disks, separated by commas",
        "rounds": "how often each comparison is repeated",
        "quick": "small images, and nothing that takes minutes a run",
        "directory": "where disks and images lie; some 25 GB for the default sizes",
    },
)
def benchmark(
    c: Context,
    only: Iterable[str] = MANY,
    sizes: str = "1,4",
    rounds: str = "3",
    quick: bool = False,
    directory: str = "",
) -> None:
    """Measure the pipeline against its rivals and write its document; root, most of an hour.

    The document is docs/reference/benchmarks.md.

    With --only, the other sections keep what they say.
    """
    words = [f"--only {shlex.quote(name)}" for name in only]
    times = _number("--rounds", rounds, least=1)
    words += ["--sizes", _sizes(sizes), "--rounds", str(times), *(["--quick"] * quick)]
    words += _option("--directory", directory, kind="directory")
    _run(c, f"{sys.executable} -m benchmarks {' '.join(words)}")


@command(
    iterable=["only"],
    help={
        "only": "filesystems, partitions, guests or servers; may be repeated",
        "directory": "where disks and images lie; two GB at a time",
    },
)
def compatibility(c: Context, only: Iterable[str] = MANY, directory: str = "") -> None:
    """Build from disks of every known kind and write what came of it; root, a quarter of an hour.

    The document is docs/reference/compatibility.md. No guest is booted: what the long tests
    recorded of guests is read.

    With --only, the other sections keep what they say.
    """
    words = [f"--only {shlex.quote(name)}" for name in only]
    words += _option("--directory", directory, kind="directory")
    _run(c, f"{sys.executable} -m tests.compatibility {' '.join(words)}")


@command(
    iterable=["only"],
    help={
        "only": "kills, glance, ec2, scarcity, disks, guests, boot or install; may be repeated",
        "points": "how many faults each of them puts, in place of its own number",
        "seed": "chooses the faults",
        "disk": "an installed disk to start from, in place of a small one; boot needs it",
        "keep": "a directory for mutations that are faults, each to be run again",
    },
)
def faults(
    c: Context,
    only: Iterable[str] = MANY,
    points: str = "",
    seed: str = "1",
    disk: str = "",
    keep: str = "",
) -> None:
    """Kill, starve and deceive the pipeline at seeded points; root, most of an hour.

    Without --only, all but boot and install run, as docs/explanation/faults.md tells.
    """
    words = [shlex.quote(name) for name in only]
    words += ["--points", str(_number("--points", points)), "--seed", str(_number("--seed", seed))]
    words += _option("--disk", disk, kind="file")
    words += _option("--keep", keep)
    _run(c, f"{sys.executable} -m tests.robustness.faults {' '.join(words)}")


@command(help={"unit": "of the tests the unit layer only"})
def check(c: Context, unit: bool = False) -> None:
    """Format, lint, types, shell scripts, then all tests: what must pass before a change lands.

    The unit layer is measured: each package of pipeline/ has a floor of coverage (pyproject.toml).
    """
    python = sys.executable
    _run(c, f"{python} -m ruff format --check .")
    _run(c, f"{python} -m ruff check .")
    _run(c, f"{python} -m mypy")
    scripts = " ".join(str(path.relative_to(ROOT)) for path in _shell_scripts())
    _run(c, f"shellcheck -S warning {scripts}")
    _tests(c, unit=unit, coverage=True)


def _number(option: str, word: str, *, least: int = 0) -> int:
    """An option's number; what is none ends the run with the words of a wrong input."""
    with session():
        return whole_number(option, word, least=least) or 0
    raise AssertionError("the session ends the run")


def _option(option: str, word: str, *, kind: Literal["directory", "file", ""] = "") -> list[str]:
    """An option that names a path, quoted for a shell in ROOT; nothing for "".

    kind: what has to be there; without it the run ends with the words of a wrong input.
    """
    if not word:
        return []
    path = Path(word).absolute()  # the run's own directory is ROOT
    found = path.is_dir() if kind == "directory" else path.exists() and not path.is_dir()
    if kind and not found:
        with session():
            raise InputError(
                f"use the option {option}",
                word,
                why=f"it is no {kind}" if path.exists() else f"there is no such {kind}",
                next_step=f"Make it or name another {kind}",
            )
    return [option, shlex.quote(str(path))]


def _sizes(word: str) -> str:
    """The benchmarks' sizes, quoted; what is none ends the run with the words of a wrong input."""
    known = (_SIZE.fullmatch(size) and float(size) for size in word.split(","))
    if not all(known):
        with session():
            raise InputError(
                "use the option --sizes",
                word,
                why="it is not a list of GiB, each above 0 and below 1000",
                next_step="Write them with commas between, such as --sizes 1,4",
            )
    return shlex.quote(word)


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
    _end(_status(c, command), nothing_is_fine)


def _status(c: Context, command: str) -> int:
    with c.cd(str(ROOT)):
        done = c.run(command, warn=True, pty=sys.stdout.isatty(), echo=True, in_stream=False)
    return 1 if done is None else done.exited  # a failed result is false


def _end(status: int, nothing_is_fine: bool) -> None:
    if status and not (nothing_is_fine and status == _NO_TESTS):
        raise Exit(code=status)
