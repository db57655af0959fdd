"""Try what the pipeline is compatible with: what `./invoke compatibility` runs.

python -m tests.compatibility [--only SECTION]... [--directory DIR]
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from tests.compatibility import filesystems, partitions, recorded, roots
from tests.compatibility.attempt import attempt
from tests.compatibility.document import DOCUMENT, TITLES, Row, save, table

_EXCUSE = "(not run here: minutes, as root)"  # for the check of the documents
_GUESTFS = (
    "import guestfs; v = guestfs.GuestFS(python_return_dict=True).version(); "
    "print(v['major'], v['minor'], v['release'], sep='.')"
)
_PROGRAMS = {  # title, and what says the version
    "filesystems": (
        ("e2fsprogs", "mke2fs -V"), ("xfsprogs", "mkfs.xfs -V"), ("libguestfs", "guestfs"),
    ),
    "partitions": (
        ("util-linux", "sfdisk --version"), ("lvm2", "lvm version"),
        ("qemu-img", "qemu-img --version"), ("e2fsprogs", "mke2fs -V"),
    ),
}  # fmt: skip
_TRIED = {"filesystems": filesystems, "partitions": partitions}
_READ: dict[str, Callable[[], str]] = {"guests": recorded.guests, "servers": recorded.servers}


def main() -> None:
    """Run the sections one after the other; what is done is in the document at once."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", choices=TITLES, default=None)
    parser.add_argument("--directory", type=Path, default=None, help="for disks and images")
    parser.add_argument("--document", type=Path, default=DOCUMENT)
    chosen = parser.parse_args()
    wanted = chosen.only or list(TITLES)
    if os.geteuid() != 0 and set(wanted) & set(_TRIED):
        sys.exit("disks are made with loop devices and mounts, which need root")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        for name in wanted:
            save(name, _section(name, chosen.directory), chosen.document)
    finally:
        roots.forget_tree()


def _section(name: str, directory: Path | None) -> str:
    today = datetime.now(UTC).date().isoformat()
    if name in _READ:
        command = f"`./invoke compatibility --only={name}` {_EXCUSE}"
        return f"Read on {today} by {command}.\n\n{_READ[name]()}"
    rows = []
    for case in _TRIED[name].cases():
        row = attempt(case, directory)
        print(f"{row.name}: {row.outcome}: {row.words}", flush=True)
        rows.append(row)
    return tried(name, today, rows)


def tried(name: str, date: str, rows: list[Row]) -> str:
    """The text of a section of rows that were tried on a date."""
    command = f"`./invoke compatibility --only={name}` {_EXCUSE}"
    return f"Tried on {date} by {command}\n{_with(name)}.\n\n{_TRIED[name].ABOUT}\n{table(rows)}"


def _with(name: str) -> str:
    """The versions that a section's outcomes depend on."""
    said = [f"{title} {_version(command)}" for title, command in _PROGRAMS[name]]
    return f"with {', '.join(said)}, Python {platform.python_version()}"


def _version(command: str) -> str:
    words = [sys.executable, "-c", _GUESTFS] if command == "guestfs" else command.split()
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    found = re.search(r"\d+(?:\.\d+)+", done.stdout + done.stderr)
    return found[0] if found else "(version unknown)"


if __name__ == "__main__":
    main()
