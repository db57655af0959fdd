"""What a second run repeats: the demo built, built again, and built after one thing changed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.bars import bars
from benchmarks.document import Section
from benchmarks.measure import (
    Cost,
    Options,
    Work,
    alternate,
    circumstances,
    host,
    markdown,
    measure,
)
from pipeline.settings import PROJECT

_COPIED = ("tasks.py", "pipeline", "templates", "kickstart")
_START = "`invoke --list`: Invoke's own start-up"
_SECONDS = 3600
_STAGES = ("install", "image", "extract", "customize", "digests", "inventory", "verify")


@dataclass(frozen=True)
class _Site:
    """A copy of the project, whose files may be changed, and a user's directory."""

    project: Path
    user: Path

    def invoke(self, words: str, _out: Path | None = None) -> None:
        """One command as a user types it; SystemExit with its words when it fails."""
        done = subprocess.run(
            [sys.executable, "-P", "-m", "invoke", "--search-root", self.project, *words.split()],
            cwd=self.user,
            env=os.environ | {"IMAGE_PIPELINE_CATALOGUE": str(self.user / "catalogue")},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"invoke {words}: status {done.returncode}\n{done.stderr[-3000:]}")

    def stages(self) -> Mapping[str, Any]:
        """Of the last build."""
        manifest = json.loads((self.user / "build" / "demo" / "manifest.json").read_text())
        stages: dict[str, Any] = manifest["stages"]
        return stages


def _make_site(work: Path) -> _Site:
    site = _Site(work / "project", work / "user")
    for directory in (site.project, site.user):
        directory.mkdir()
    for name in _COPIED:
        if (PROJECT / name).is_dir():
            shutil.copytree(PROJECT / name, site.project / name)
        else:
            shutil.copy(PROJECT / name, site.project)
    return site


def sections(options: Options) -> Iterator[Section]:
    """Build the demo, time what needs nothing new, then change one thing after another."""
    with tempfile.TemporaryDirectory(dir=options.directory) as text:
        work = Path(text)
        site = _make_site(work)
        costs: dict[str, Cost] = {}
        done: dict[str, Mapping[str, Any]] = {}

        def once(name: str, words: str) -> None:
            costs[name] = measure(name, partial(site.invoke, words), work)
            done[name] = site.stages()
            print(f"  {name}: {costs[name].seconds:.1f} s", flush=True)

        once("first build and upload", "build demo upload")
        contenders: dict[str, Work] = {
            _START: partial(site.invoke, "--list"),
            "unchanged rebuild": partial(site.invoke, "build demo"),
            "unchanged rebuild and upload": partial(site.invoke, "build demo upload"),
            "upload of a registered build": partial(site.invoke, "upload --recipe demo"),
        }
        quick = alternate(contenders, max(options.rounds, 5), work, base=_START)
        done["unchanged rebuild"] = site.stages()
        with (site.project / "templates" / "rc.local").open("a") as file:
            file.write("# changed\n")
        once("a template changed", "build demo")
        if not options.quick:
            answers = site.project / "kickstart" / "demo.ks"
            answers.write_text(f"# changed\n{answers.read_text()}")
            once("the kickstart changed", "build demo")
    start = quick[_START].seconds
    rows = [
        [name, f"{cost.seconds:.2f}", f"{cost.seconds - start:+.2f}", f"{cost.cpu:.2f}"]
        for name, cost in (quick | costs).items()
    ]
    words = (
        f"{host(options.directory)}. `invoke build demo upload` with the local cloud, guests"
        f" without acceleration where the probe finds none.\n\n"
        f"{circumstances(quick, max(options.rounds, 5))} What starts a guest ran once.\n\n"
        f"{markdown(['command', 's', 'beyond start-up', 'CPU s'], rows)}\n"
        "An unchanged rebuild takes"
        f" {quick['unchanged rebuild'].seconds - start:.2f} s more than Invoke's start-up"
        " (target 1).\n\n### Where each second goes\n\n"
        f"{_stage_table(done)}\n"
        "Seconds of each stage, and when it began; `image` contains `extract` and `customize`."
        " Digests and inventory run beside the boot check, `verify`, and end before it."
    )
    plot = bars("Builds, seconds", {name: c.seconds for name, c in (quick | costs).items()})
    yield Section(words, plot)


def _stage_table(done: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    for name, stages in done.items():
        cells = []
        for stage in _STAGES:
            record = stages.get(stage)
            if record is None:
                cells.append("")
            elif record["reused"]:
                cells.append("reused")
            else:
                cells.append(f"{record['seconds']:.1f} (from {record['begun']:.1f})")
        rows.append([name, *cells])
    return markdown(["run", *_STAGES], rows)
