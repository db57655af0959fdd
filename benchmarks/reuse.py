"""What a second run repeats: the demo built, built again, and built after one thing changed."""

from __future__ import annotations

import json
import os
import re
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
from benchmarks.disks import make_disk, root_gib
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
from pipeline.core.resources import PROJECT

_COPIED = ("tasks.py", "pipeline", "templates", "kickstart")
_WHOLE = (
    "The demo is built and uploaded to the local cloud; guests run without acceleration where the"
    " probe finds none."
)
_QUICK_GIB = 0.25
_QUICK = (
    f"No guest is started: the build takes --disk and --no-verify, the upload --unverified, and"
    f" begins with a disk of {_QUICK_GIB} GiB of files; the local cloud."
)
START = "`invoke --list`: Invoke's own start-up"
UNCHANGED = "unchanged rebuild"
_ROUNDS = 5  # at least: these take a second each
_SECONDS = 3600
_UNUSUAL = frozenset({"PYTHONDONTWRITEBYTECODE"})  # users' shells let Python keep what it compiled
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
            env={
                **{name: os.environ[name] for name in os.environ if name not in _UNUSUAL},
                "IMAGE_PIPELINE_CATALOGUE": str(self.user / "catalogue"),
            },
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
        stages: dict[str, Any] = manifest["steps"]
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
    # The demo's bounds are for a host that does nothing else; a slow guest is no failure here.
    recipes = site.project / "kickstart" / "recipes.toml"
    bound = re.compile(r"^(install|quiet|verify)_minutes = .*$", re.MULTILINE)
    recipes.write_text(bound.sub(r"\1_minutes = 60", recipes.read_text()))
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

        build, upload = "build demo", "upload"
        if options.quick:
            disk = make_disk(work / "disk.img", root_gib(_QUICK_GIB), _QUICK_GIB)
            build, upload = f"build demo --disk {disk.path} --no-verify", "upload --unverified"
        once("first build and upload", f"{build} {upload}")
        contenders: dict[str, Work] = {
            START: partial(site.invoke, "--list"),
            UNCHANGED: partial(site.invoke, build),
            "unchanged rebuild and upload": partial(site.invoke, f"{build} {upload}"),
            "upload of a registered build": partial(site.invoke, f"{upload} --recipe demo"),
        }
        rounds = max(options.rounds, _ROUNDS)
        quick = alternate(contenders, rounds, work, base=START)
        done[UNCHANGED] = site.stages()
        about = _QUICK if options.quick else _WHOLE
        about = f"{host(options.directory)}. {about}\n\n{circumstances(quick, rounds)}"
        yield _section(about, quick | costs, done)
        with (site.project / "templates" / "rc.local").open("a") as file:
            file.write("# changed\n")
        once("a template changed", build)
        yield _section(about, quick | costs, done)
        if not options.quick:
            answers = site.project / "kickstart" / "demo.ks"
            answers.write_text(f"# changed\n{answers.read_text()}")
            once("the kickstart changed", build)
            yield _section(about, quick | costs, done)


def _section(
    about: str, costs: Mapping[str, Cost], done: Mapping[str, Mapping[str, Any]]
) -> Section:
    start = costs[START].seconds
    rows = [
        [name, f"{cost.seconds:.2f}", f"{cost.seconds - start:+.2f}", f"{cost.cpu:.2f}"]
        for name, cost in costs.items()
    ]
    words = (
        f"{about} What starts a guest ran once.\n\n"
        f"{markdown(['command', 's', 'beyond start-up', 'CPU s'], rows)}\n"
        f"An unchanged rebuild takes {costs[UNCHANGED].seconds - start:.2f} s more than Invoke's"
        f" start-up (target 1), {costs[UNCHANGED].cpu - costs[START].cpu:.2f} s of it CPU.\n\n"
        f"### Where each second goes\n\n{_stage_table(done)}\n"
        "Seconds of each stage, and when it began; `image` contains `extract` and `customize`."
        " Digests and inventory run beside the boot check, `verify`."
    )
    return Section(words, bars("Builds, seconds", {n: c.seconds for n, c in costs.items()}))


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
