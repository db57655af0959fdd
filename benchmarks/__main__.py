"""All benchmarks, or some: what `./invoke benchmark` runs.

python -m benchmarks [--only SECTION]... [--sizes 1,4] [--rounds 3] [--quick] [--directory DIR]
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from importlib import import_module
from pathlib import Path

from benchmarks.document import DOCUMENT, TITLES, Section, save
from benchmarks.measure import Options

_EXCUSE = "(not run here: minutes to most of an hour, as root)"  # for the check of the documents


def main() -> None:
    """Run the sections one after the other; what is done is in the document at once."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", choices=TITLES, default=None)
    parser.add_argument("--sizes", default="1,4", help="GiB of files, separated by commas")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="leave out what takes minutes a run")
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--document", type=Path, default=DOCUMENT)
    chosen = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("benchmarks need root: the rivals use loop devices and mounts")
    options = Options(
        tuple(float(size) for size in chosen.sizes.split(",")),
        chosen.rounds,
        chosen.quick,
        chosen.directory,
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    for name in chosen.only or TITLES:
        print(f"# {name}", flush=True)
        words = f"--only={name} --sizes {chosen.sizes} --rounds {chosen.rounds}"
        command = f"./invoke benchmark {words}{' --quick' * chosen.quick}"
        for section in import_module(f"benchmarks.{name}").sections(options):
            named = Section(f"Taken by `{command}` {_EXCUSE}.\n\n{section.text}", section.plot)
            save(name, named, chosen.document)
        print(section.text, flush=True)


if __name__ == "__main__":
    main()
