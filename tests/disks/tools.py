"""Programs for making disks; tests only, so that plain subprocess will do."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

SECONDS = 600
"""Nothing here takes a minute on a quiet machine; a busy one gets ten."""


def run(
    *argv: str | Path,
    text: str | None = None,
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
) -> str:
    """Run a program to its end and return its standard output; its words are in any error."""
    environment = os.environ | {
        "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
        "LC_ALL": "C.UTF-8",
    }
    done = subprocess.run(
        [str(word) for word in argv],
        input=text,
        env=environment | (env or {}),
        cwd=cwd,
        capture_output=True,
        text=True,
        errors="replace",  # some programs print names as they find them
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{argv}: status {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


@contextlib.contextmanager
def loop(file: Path, offset: int = 0, size: int | None = None) -> Iterator[str]:
    """A loop device over a stretch of a file."""
    limit: Sequence[str] = () if size is None else (f"--sizelimit={size}",)
    device = run("losetup", "--show", "-f", f"--offset={offset}", *limit, file).strip()
    try:
        yield device
    finally:
        run("losetup", "-d", device)


@contextlib.contextmanager
def mounted(image: Path, at: Path, *options: str) -> Iterator[Path]:
    """A file system image, mounted by the kernel."""
    at.mkdir(exist_ok=True)
    run("mount", "-o", ",".join(["loop", *options]), image, at)
    try:
        yield at
    finally:
        run("umount", at)
        at.rmdir()
