"""Install trees: an installer's kernel and initrd, from a mirror or a directory, verified.

A tree is a directory on a web server or on this host. Its .treeinfo (Fedora, CentOS and their
kin) or SHA256SUMS (Debian) names the checksums; without one that matches, nothing is used.
Mirrors are tried in order and each failure is told. Files are cached by what the checksum file
says and hashed again at every use.

Source of .treeinfo: productmd's documentation, "Treeinfo file format 1.x"; of SHA256SUMS:
sha256sum(1).
"""

from __future__ import annotations

import configparser
import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from pipeline.builders import demo
from pipeline.core import settings
from pipeline.core.errors import InstallError, PipelineError
from pipeline.core.recipe import Recipe
from pipeline.host.context import Tools
from pipeline.host.download import Downloader, DownloadError, guest_url, masked

_ALGORITHMS = ("sha256", "sha384", "sha512")
_MAX_FILE = 1 << 30  # bytes; the largest initrd of any distribution is a tenth of it


class TreeError(InstallError):
    """No install tree of the recipe could be used; `why` lists each that was tried."""


class ChecksumError(TreeError):
    """A file of an install tree is not what the tree's checksum file says."""


@dataclass(frozen=True)
class Tree:
    """A verified tree on this host.

    path: a directory with the checksum file, kernel and initrd at the tree's own paths. kernel
    and initrd: those paths. identity: changes when either file does. url: the tree as the
    *guest* sees it, "" when it is a directory of this host. variables: for kickstart.render.
    """

    path: Path
    kernel: str
    initrd: str
    identity: str
    url: str = field(default="", repr=False)
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class _Wanted:
    """A file of a tree and the checksum it must have."""

    path: str
    algorithm: str
    digest: str


def obtain(recipe: Recipe, tools: Tools) -> Tree:
    """The first of the recipe's trees that can be had; the stand-in's is made here.

    ChecksumError when the last one tried does not match its checksums, TreeError with every
    attempt when none can be used.
    """
    if recipe.installer == "stand-in" and not recipe.trees:
        made = demo.make_tree(settings.cache_dir() / "stand-in", tools)
        return Tree(made.path, recipe.kernel, recipe.initrd, made.identity)
    downloader = Downloader(tools.run.secrets, tools.progress.warn)
    failures: list[PipelineError] = []
    for place in recipe.trees:
        try:
            if "://" in place:
                return _remote(recipe, place.rstrip("/"), downloader, tools)
            return _local(recipe, Path(place))
        except (DownloadError, TreeError) as error:
            failures.append(error)
            tools.progress.warn(f"install tree {masked(place)}: {error.why}")
    kind = ChecksumError if failures and isinstance(failures[-1], ChecksumError) else TreeError
    raise kind(
        "get an install tree for",
        recipe.name,
        why="; ".join(f"{e.subject}: {e.why}" for e in failures) or "the recipe names no trees",
        next_step="Add a mirror that works to the recipe's `trees`",
    )


def _local(recipe: Recipe, directory: Path) -> Tree:
    try:
        text = (directory / recipe.checksums).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise _unusable(str(directory), f"its {recipe.checksums} cannot be read: {error}") from None
    wanted = wanted_files(recipe, text, str(directory))
    for item in wanted:
        if not _matches(directory / item.path, item):
            raise _mismatch(str(directory / item.path), item)
    return _tree(directory, wanted)


def _remote(recipe: Recipe, url: str, downloader: Downloader, tools: Tools) -> Tree:
    if urlsplit(url).scheme not in ("http", "https"):
        raise _unusable(masked(url), "only http and https are supported")
    text = downloader.text(f"{url}/{recipe.checksums}")
    wanted = wanted_files(recipe, text, masked(url))
    directory = settings.cache_dir() / "trees" / hashlib.sha256(text.encode()).hexdigest()[:32]
    if not all(_matches(directory / item.path, item) for item in wanted):
        shutil.rmtree(directory, ignore_errors=True)
        _download(
            url,
            directory,
            checksums=recipe.checksums,
            text=text,
            wanted=wanted,
            downloader=downloader,
            tools=tools,
        )
    proxy = downloader.proxy_for(url)
    guest_proxy = guest_url(proxy) if proxy else ""
    seen = guest_url(url)
    variables = {
        "tree": seen,
        "proxy": guest_proxy,
        "proxy_option": f" --proxy={guest_proxy}" if guest_proxy else "",
    }
    return _tree(directory, wanted, seen, variables)


def _tree(
    directory: Path,
    wanted: tuple[_Wanted, _Wanted],
    url: str = "",
    variables: Mapping[str, str] | None = None,
) -> Tree:
    kernel, initrd = wanted
    identity = hashlib.sha256(f"{kernel.digest} {initrd.digest}".encode()).hexdigest()
    return Tree(directory, kernel.path, initrd.path, identity, url, variables or {})


def _download(
    url: str,
    final: Path,
    *,
    checksums: str,
    text: str,
    wanted: tuple[_Wanted, ...],
    downloader: Downloader,
    tools: Tools,
) -> None:
    final.parent.mkdir(parents=True, exist_ok=True)
    partial = final.with_name(f".{final.name}.{os.getpid()}.partial")
    with (
        tools.run.cleanup(remove=partial),
        tools.progress.task(f"download the installer from {masked(url)}") as meter,
    ):
        try:
            for item in wanted:
                file = partial / item.path
                file.parent.mkdir(parents=True, exist_ok=True)
                digest = downloader.file(
                    f"{url}/{item.path}",
                    file,
                    algorithm=item.algorithm,
                    limit=_MAX_FILE,
                    advance=meter.advance,
                )
                if digest != item.digest:
                    raise _mismatch(masked(f"{url}/{item.path}"), item, digest)
            (partial / checksums).write_text(text)
            # Another build may have fetched the same meanwhile; its files are as good.
            with contextlib.suppress(OSError):
                partial.rename(final)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def wanted_files(recipe: Recipe, text: str, place: str) -> tuple[_Wanted, _Wanted]:
    """Kernel and initrd as the checksum file of the tree at `place` describes them.

    TreeError when it is malformed, names no checksum for them, or leads out of the tree.
    """
    if recipe.checksums.endswith(".treeinfo"):
        paths, sums = _treeinfo(text, recipe, place)
    else:
        paths, sums = (recipe.kernel, recipe.initrd), _checksum_lines(text)
    files = []
    for path in paths:
        if path.startswith("/") or ".." in PurePosixPath(path).parts or not path:
            raise _unusable(place, f"its {recipe.checksums} names the file {path!r}")
        if path not in sums:
            raise _unusable(place, f"its {recipe.checksums} has no checksum of {path}")
        files.append(_Wanted(path, *sums[path]))
    return files[0], files[1]


def _treeinfo(
    text: str, recipe: Recipe, place: str
) -> tuple[tuple[str, str], dict[str, tuple[str, str]]]:
    parser = configparser.ConfigParser(interpolation=None, strict=False, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign] # names are paths
    try:
        parser.read_string(text)
    except configparser.Error as error:
        raise _unusable(place, f"its .treeinfo is malformed: {error}") from None
    images = f"images-{recipe.architecture}"
    paths = (
        parser.get(images, "kernel", fallback=recipe.kernel).strip(),
        parser.get(images, "initrd", fallback=recipe.initrd).strip(),
    )
    sums = {}
    for path, value in parser.items("checksums") if parser.has_section("checksums") else ():
        algorithm, _, digest = value.strip().partition(":")
        if algorithm in _ALGORITHMS and re.fullmatch(r"[0-9a-fA-F]+", digest):
            sums[path] = algorithm, digest.lower()
    return paths, sums


def _checksum_lines(text: str) -> dict[str, tuple[str, str]]:
    sums = {}
    for line in text.splitlines():
        if match := re.fullmatch(r"([0-9a-f]{64}) [ *](?:\./)?(\S+)", line):
            sums[match[2]] = "sha256", match[1]
    return sums


def _matches(path: Path, wanted: _Wanted) -> bool:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, wanted.algorithm).hexdigest() == wanted.digest
    except OSError:
        return False


def _mismatch(subject: str, wanted: _Wanted, digest: str = "") -> ChecksumError:
    found = f"it is {digest}" if digest else "the file is missing or another"
    return ChecksumError(
        "use the installer's file",
        subject,
        why=f"its {wanted.algorithm} must be {wanted.digest} and {found}",
        next_step="Use another mirror: this one is out of step or tampered with",
    )


def _unusable(subject: str, why: str) -> TreeError:
    return TreeError(
        "use the install tree",
        subject,
        why=why,
        next_step="Use another mirror in the recipe's `trees`",
    )
