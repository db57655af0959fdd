"""What the long tests that boot guests keep of a boot check."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from pipeline.guest.boot.kernel_image import kernel_release
from tests.compatibility.recorded import record
from tests.fixtures.disks.debian import Flavour
from tests.fixtures.triples import Files

_RELEASES = {"bookworm": "Debian 12 (bookworm)", "trixie": "Debian 13 (trixie)",
             "forky": "Debian 14 (forky)", "sid": "Debian sid"}  # fmt: skip


def name(flavour: Flavour) -> str:
    """A flavour in words."""
    release = _RELEASES.get(flavour.suite, flavour.suite)
    return f"{release}, {flavour.ramdisk}, {flavour.network}"


def kept(test: str, flavour: Flavour, files: Files, failed: Sequence[tuple[str, str]]) -> None:
    """Record the check of a flavour's triple, if recording is asked for (`recorded.record`).

    failed: (assertion, detail) of all that did not pass.
    """
    said = subprocess.run(
        ["qemu-system-x86_64", "--version"], capture_output=True, text=True, check=True
    ).stdout.split()
    versions = f"Linux {kernel_release(files.kernel)}, qemu {said[3]}"
    words = "; ".join(f"{assertion}: {detail}" for assertion, detail in failed)
    outcome = "refused" if failed else "works"
    record(name(flavour), versions, f"tests/integration/{test}", outcome,
           words or "every assertion of the boot check held")  # fmt: skip
