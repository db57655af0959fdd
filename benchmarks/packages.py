"""Images from packages: a Debian recipe to three files, beside those who make the same system."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from benchmarks.bars import bars
from benchmarks.document import Section
from benchmarks.measure import (
    Cost,
    Options,
    Work,
    alternate,
    circumstances,
    cost_table,
    host,
)
from pipeline.core.resources import PROJECT

RIVAL = "mmdebstrap to a tar, its packages beside it"
NOTHING = "this pipeline: three files, no layer there"
CORE = "this pipeline: three files, the core layer there"
MORE = "this pipeline: three files, one package more"
UNCHANGED = "this pipeline: nothing changed"
MKOSI = "mkosi to a tar, its cache warm"
DIB = "disk-image-create to a tar, its cache warm"
_RELEASE = "bookworm"
_PACKAGES = (
    *("linux-image-cloud-amd64", "initramfs-tools", "systemd-sysv", "udev", "kmod", "dbus"),
    *("iproute2", "netbase", "e2fsprogs", "openssh-server", "ca-certificates", "curl"),
)
_ANOTHER = "tree"
_RECIPE = """
[bench]
description = "The system of the benchmark"
source = "packages"
distribution = "debian"
release = "{release}"
base = [{base}]
packages = [{packages}]
"""
_SECONDS = 3600
_SAID = 3000  # characters of a failure


@dataclass(frozen=True)
class _Site:
    """A user's directory with a warm cache of packages and the layers that a contender starts from.

    debs: every package file of the system, as a repository that mmdebstrap reads.
    """

    user: Path

    @property
    def debs(self) -> Path:
        return self.user / "debs"

    def recipe(self, *packages: str) -> Path:
        path = self.user / f"recipes{len(packages)}.toml"
        words = {"base": _PACKAGES, "packages": packages}
        named = {field: ", ".join(f'"{word}"' for word in w) for field, w in words.items()}
        path.write_text(_RECIPE.format(release=_RELEASE, **named))
        return path

    def build(
        self, recipe: Path, shared: Path | None, place: Path, layers: Path | None = None
    ) -> Mapping[str, float]:
        """Build it below `place`; seconds after which the three files were there."""
        _run(
            [sys.executable, "-P", "-m", "invoke", "--search-root", str(PROJECT), "build", "bench",
             "--no-verify"],
            cwd=place,
            env={
                **os.environ,
                "IMAGE_PIPELINE_RECIPES": str(recipe),
                "IMAGE_PIPELINE_CACHE": str(self.user / "cache"),
                "IMAGE_PIPELINE_LAYERS": str(layers or place / "layers"),
                "IMAGE_PIPELINE_SHARED_LAYERS": str(shared or self.user / "none"),
            },
        )  # fmt: skip
        steps = json.loads((place / "build/bench/manifest.json").read_text())["steps"]
        return {"files": steps["image"]["begun"] + steps["image"]["seconds"]}


def sections(options: Options) -> Iterator[Section]:
    """The same packages by all; the rivals that take minutes only without --quick."""
    with tempfile.TemporaryDirectory(dir=options.directory) as name:
        site = _prepared(Path(name))
        whole, core = site.user / "layers", site.user / "core"
        contenders: dict[str, Work] = {
            RIVAL: partial(_mmdebstrap, site),
            NOTHING: partial(site.build, site.recipe(), None),
            CORE: partial(site.build, site.recipe(), core),
            MORE: partial(site.build, site.recipe(_ANOTHER), whole),
            UNCHANGED: partial(_unchanged, site),
        }
        if not options.quick:
            if shutil.which("mkosi"):
                contenders[MKOSI] = partial(_mkosi, site)
            if shutil.which("disk-image-create"):
                contenders[DIB] = partial(_dib, site)
        costs = alternate(contenders, options.rounds, site.user, base=RIVAL)
        for place in (whole, core):
            shutil.rmtree(place)
    left = [name for name in (MKOSI, DIB) if name not in costs]
    parts = [
        f"{host(options.directory)}. Debian 12 minbase with {', '.join(_PACKAGES)}. All packages lie"
        " in a cache on the host; nobody asks a mirror but mkosi and disk-image-create, whose"
        " caches are warm. mmdebstrap gives a tar and no image; this pipeline gives the root as an"
        " ext4 image, customised, with kernel and ramdisk, checked by e2fsck.",
        f"{circumstances(costs, options.rounds)}\n\n{cost_table(costs, 'mmdebstrap')}",
        _verdict(costs),
    ]
    if left:
        parts.append(f"Left out: {', '.join(left)}.")
    plot = {name: cost.seconds for name, cost in costs.items()}
    yield Section("\n\n".join(parts), bars("Packages to three files, seconds (median)", plot))


def _verdict(costs: Mapping[str, Cost]) -> str:
    first, rival = costs[NOTHING], costs[RIVAL]
    words = [
        f"Three files where no layer is there: {first.report['files'] / rival.seconds:.2f} x"
        " mmdebstrap alone (target 1.1 at most);"
        f" where the core is there: {rival.seconds / costs[CORE].report['files']:.2f} x as fast as"
        " it (target 1.5);"
        f" one package more: {costs[MORE].report['files'] / first.report['files']:.2f} of the first"
        f" build (target 0.1); nothing changed: {costs[UNCHANGED].seconds:.2f} s (target 1)."
    ]
    for name in (MKOSI, DIB):
        if name in costs:
            ratio = costs[name].seconds / first.report["files"]
            words.append(f"{name.partition(' ')[0]} takes {ratio:.1f} x as long (target 2).")
    return " ".join(words)


def _prepared(user: Path) -> _Site:
    """Warm caches: every package fetched, the layers made once, a repository for mmdebstrap."""
    site = _Site(user)
    whole, core = user / "layers", user / "core"
    for packages in ((), (_ANOTHER,)):
        place = user / f"warm{len(packages)}"
        place.mkdir()
        site.build(site.recipe(*packages), None, place, whole)
    for layer in whole.iterdir():
        record = layer / "layer.json"
        if record.exists() and json.loads(record.read_text())["wish"]["kind"] == "core":
            core.mkdir()
            _run(["cp", "-a", layer, core / layer.name])
        elif record.exists() and _ANOTHER in json.loads(record.read_text())["wish"]["words"]:
            shutil.rmtree(layer)
    debs = site.debs
    debs.mkdir()
    for file in (user / "cache").rglob("*.deb"):
        os.link(file, debs / file.name)
    with (debs / "Packages").open("wb") as index:
        _run(["apt-ftparchive", "packages", "."], cwd=debs, stdout=index)
    return site


def _mmdebstrap(site: _Site, out: Path) -> None:
    _run(
        ["mmdebstrap", "--mode=root", "--variant=minbase", f"--include={','.join(_PACKAGES)}",
         "--quiet", _RELEASE, out / "root.tar", f"deb [trusted=yes] copy:{site.debs} ./"]
    )  # fmt: skip


def _unchanged(site: _Site, _out: Path) -> Mapping[str, float]:
    return site.build(site.recipe(), None, site.user / "warm0", site.user / "layers")


def _mkosi(site: _Site, out: Path) -> None:
    cache = site.user / "mkosi"
    cache.mkdir(exist_ok=True)
    words = [word for package in _PACKAGES for word in ("--package", package)]
    _run(
        ["mkosi", "--distribution", "debian", "--release", _RELEASE, "--format", "tar",
         "--cache", cache, "--output", out / "root.tar", *words, "build"],
        cwd=out,
    )  # fmt: skip


def _dib(site: _Site, out: Path) -> None:
    packages = ",".join(_PACKAGES)
    _run(
        ["disk-image-create", "-t", "tar", "-o", out / "root", "-p", packages, "debian-minimal"],
        env={**os.environ, "DIB_RELEASE": _RELEASE, "XDG_CACHE_HOME": str(site.user / "dib")},
        cwd=out,
    )


def _run(
    words: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdout: BinaryIO | None = None,
) -> None:
    """Run a program to its end; SystemExit with its words when it fails."""
    done = subprocess.run(
        words,
        stdin=subprocess.DEVNULL,
        stdout=stdout or subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=_SECONDS,
        check=False,
        cwd=cwd,
        env=env,
    )
    if done.returncode:
        said = done.stderr.decode(errors="replace")[-_SAID:]
        raise SystemExit(f"{words[0]}: status {done.returncode}\n{said}")
