"""A whole build after the install: a disk in, three files with a manifest out, by both backends."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from benchmarks.bars import bars
from benchmarks.disks import Disk, floor, make_disk, root_gib
from benchmarks.document import Section
from benchmarks.extraction import FLOOR, TCG, extracted, through_appliance
from benchmarks.measure import (
    MIB,
    Cost,
    Options,
    Work,
    alternate,
    circumstances,
    cost_table,
    host,
    markdown,
    measure,
)
from pipeline.builders.recipes import choose_recipe, load_recipes
from pipeline.core.events import QuietProgress
from pipeline.core.image import PartitionImage
from pipeline.core.recipe import Recipe
from pipeline.core.request import Backend, BuildRequest
from pipeline.core.resources import PROJECT
from pipeline.core.secrets import Secrets
from pipeline.guest.access.open import open_guest
from pipeline.host.context import Tools
from pipeline.host.programs import Runner
from pipeline.host.sparse import digests
from pipeline.workflows.build import build

E2FSPROGS = "this pipeline, e2fsprogs"
GUESTFS = "this pipeline, guestfs appliance without acceleration"
SHRUNK = "this pipeline, e2fsprogs, `shrink = true`"
HASH = "sha256 of such an image alone, from the page cache"
LAUNCH = "an appliance without acceleration: launched, mounted, ended, nothing edited"
_STAGES = ("extract", "customize", "image", "digests", "inventory")


def _recipe(*, shrink: bool) -> Recipe:
    demo = choose_recipe(load_recipes(PROJECT / "kickstart" / "recipes.toml"), "demo")
    return demo.model_copy(update={"name": "bench", "shrink": shrink})


def _build(disk: Disk, backend: Backend, shrink: bool, out: Path) -> Mapping[str, float]:
    """The product's own story of a build, without the boot check; its stages' seconds."""
    os.environ["IMAGE_PIPELINE_BUILD"] = str(out)
    request = BuildRequest(
        _recipe(shrink=shrink),
        disk=disk.path,
        backend=backend,
        accelerator="tcg",
        verify=False,
    )
    manifest = build(request, QuietProgress(), Secrets())
    files = manifest.steps["image"]
    return {
        "files": (files.begun or 0.0) + files.seconds,
        **{name: manifest.steps[name].seconds for name in _STAGES},
    }


def _hash(image: Path, _out: Path) -> None:
    digests(image, ["sha256"])


def _launch(image: PartitionImage, out: Path) -> None:
    with Runner() as runner:
        tools = Tools(runner, QuietProgress(), out)
        with open_guest(image, None, backend="guestfs", acceleration=TCG, tools=tools):
            pass


def sections(options: Options) -> Iterator[Section]:
    """Build from a disk of each size; sparsify a finished image for comparison."""
    parts = [
        f"{host(options.directory)}. The disks are those of the extraction, out of the page cache;"
        " kernel and ramdisk come from /boot. No boot check, which takes longer than all of this"
        " and behind which digests and inventory hide (see the stages of a demo build below):"
        " here they are all that follows the three files."
    ]
    plot: dict[str, float] = {}
    with tempfile.TemporaryDirectory(dir=options.directory) as name:
        work = Path(name)
        for number, used in enumerate(options.sizes):
            disk = make_disk(work / "disk.img", root_gib(used), used)
            (work / "extracted").mkdir()
            root = extracted(disk, work / "extracted").root
            contenders: dict[str, Work] = {
                FLOOR: partial(floor, disk),
                E2FSPROGS: partial(_build, disk, "e2fsprogs", False),
                SHRUNK: partial(_build, disk, "e2fsprogs", True),
                HASH: partial(_hash, root.path),
            }
            slow: dict[str, Work] = {}
            if number == 0 and not options.quick:
                slow = {
                    GUESTFS: partial(_build, disk, "guestfs", False),
                    LAUNCH: partial(_launch, root),
                }
            costs = alternate(contenders | slow, options.rounds, work, base=FLOOR, cold=[disk.path])
            parts.append(
                f"### {used:g} GiB of files, root volume of {root_gib(used):g} GiB\n\n"
                f"{circumstances(costs, options.rounds)}\n\n{cost_table(costs, 'floor')}\n"
                f"{_stages(costs)}\n{_verdict(costs)}"
            )
            plot.update({f"{used:g} GiB: {name}": c.seconds for name, c in costs.items()})
            if number == 0:
                parts.append(_sparsified(disk, options, work))
            shutil.rmtree(work / "extracted")
            disk.path.unlink()
            yield Section("\n\n".join(parts), bars("Disk to manifest, seconds (median)", plot))


def _stages(costs: Mapping[str, Cost]) -> str:
    """Where each second went; "image" contains extracting and customising."""
    base = costs[FLOOR].seconds
    rows = []
    for name, cost in costs.items():
        if "files" in cost.report:
            files = cost.report["files"]
            seconds = [f"{cost.report[stage]:.2f}" for stage in _STAGES]
            rows.append([name, *seconds, f"{files:.2f}", f"{files / base:.2f}"])
    head = ["seconds of", *_STAGES, "three files after", "x floor"]
    return markdown(head, rows) + (
        "\nThe stage `image` contains `extract` and `customize`; `digests` and `inventory` begin"
        " when it ends and run beside each other.\n"
    )


def _verdict(costs: Mapping[str, Cost]) -> str:
    base, ours = costs[FLOOR], costs[E2FSPROGS]
    files = ours.report["files"] / base.seconds
    words = [
        f"Three files without an appliance: {files:.2f} x the floor (target 1.1), their manifest"
        f" after {ours.ratio:.2f} x: one core needs {costs[HASH].ratio:.2f} x the floor for the"
        " sha256 of the image alone, and SHA-256 is a chain in which no block can be begun before"
        " the one ahead of it (FIPS 180-4, 6.2.2)."
    ]
    if GUESTFS in costs:
        allowed = 1.3 * base.seconds + costs[LAUNCH].seconds
        words.append(
            f"Through the appliance: three files after {costs[GUESTFS].report['files']:.1f} s,"
            f" where 1.3 x the floor and one bare launch are {allowed:.1f} s."
        )
    words.append(f"Memory: {ours.memory >> 20} MiB (target 64).")
    return " ".join(words)


def _sparsified(disk: Disk, options: Options, work: Path) -> str:
    """Allocated bytes of a finished image, before and after virt-sparsify."""
    if options.quick or not shutil.which("virt-sparsify"):
        why = "--quick" if options.quick else "it is not installed; Debian: guestfs-tools"
        return f"virt-sparsify was left out ({why})."

    def sparsify(out: Path) -> Mapping[str, float]:
        allocated: dict[str, float] = {}
        for name, shrink in (("as it is", False), ("shrunk", True)):
            place = out / str(shrink)
            _build(disk, "e2fsprogs", shrink, place)
            image = place / "bench" / "bench.img"
            before = image.stat().st_blocks * 512
            through_appliance("virt-sparsify", "--quiet", "--in-place", image)
            allocated |= {name: before, f"{name}, sparsified": image.stat().st_blocks * 512}
        return allocated

    found = measure("virt-sparsify", sparsify, work).report
    rows = [
        [name, f"{found[name] / MIB:.1f}", f"{found[f'{name}, sparsified'] / MIB:.1f}"]
        for name in ("as it is", "shrunk")
    ]
    head = ["machine image", "allocated, MiB", "after virt-sparsify --in-place, MiB"]
    return f"### Holes\n\n{markdown(head, rows)}"
