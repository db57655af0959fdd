"""The install tree: its identity, its layout, and how it gets its final name."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pipeline.builders.demo.archive import FileTree, write_cpio
from pipeline.builders.demo.contents import Host, host_files, installer_files
from pipeline.core import resources
from pipeline.core.errors import HostError
from pipeline.host.context import Tools
from pipeline.host.fingerprint import step_key

PHASES = ("Partitioning", "Formatting", "Installing", "Configuring", "Running %post", "Complete")
"""What the installer prints on its console after "installer: " as it goes, in this order."""
FATAL = "installer: FATAL: "
"""How the console line starts that says why the installer gave up."""

TEMPLATES = resources.TEMPLATES / "standin"
_KERNEL = "images/pxeboot/vmlinuz"
_INITRD = "images/pxeboot/initrd.img"


@dataclass(frozen=True)
class InstallTree:
    """A finished tree for `virt-install --location`.

    path: its directory. identity: hex digest over everything that went in.
    """

    path: Path
    identity: str


def tree_identity() -> str:
    """Identity of the tree `make_tree` would make now; reads, but builds nothing.

    HostError when the host lacks a program or a kernel that the tree is made from.
    """
    return _identity(host_files())


def make_tree(directory: Path, tools: Tools) -> InstallTree:
    """Make the tree below `directory`, or find it there whole.

    The same host files always give the same bytes. A tree has its final name only when it is
    whole; a directory below `directory` that is not needed any more can be deleted.
    """
    host = host_files()
    identity = _identity(host)
    tree = InstallTree(directory / identity[:32], identity)
    if not tree.path.is_dir():
        with tools.progress.task("make the demo's install tree"):
            try:
                _build(tree.path, host, tools)
            except OSError as error:
                raise HostError(
                    "make the demo's install tree",
                    tree.path,
                    why=error.strerror or str(error),
                    next_step="It needs about 200 MiB there and in the build directory",
                ) from error
    return tree


def treeinfo(checksums: dict[str, str]) -> str:
    """`.treeinfo` as virtinst reads it, with the sha256 of each file.

    The name and version make virtinst treat it like a Fedora 15 tree: `ks=`, text mode.
    Source: virtinst/install/urldetect.py of virt-manager 4.1; productmd's treeinfo 1.x format.
    """
    lines = [
        "[general]",
        "name = Fedora-15",
        "family = Fedora",
        "variant = Fedora",
        "version = 15",
        "arch = x86_64",
        "timestamp = 0",
        "",
        "[images-x86_64]",
        f"kernel = {_KERNEL}",
        f"initrd = {_INITRD}",
        "",
        "[checksums]",
        *(f"{name} = sha256:{digest}" for name, digest in checksums.items()),
    ]
    return "\n".join(lines) + "\n"


def _identity(host: Host) -> str:
    inputs = {str(path): _sha256(path) for path in host.inputs()}
    for what, directory in (("code", Path(__file__).parent), ("template", TEMPLATES)):
        for path in directory.rglob("*"):
            name = f"{what} {path.relative_to(directory)}"
            if path.is_symlink():
                inputs[name] = f"-> {path.readlink()}"
            elif "__pycache__" not in path.parts and path.is_file():
                inputs[name] = _sha256(path)
    return step_key("stand-in tree", inputs)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _build(final: Path, host: Host, tools: Tools) -> None:
    final.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{final.name}.", suffix=".partial", dir=final.parent))
    with tools.run.cleanup(remove=partial):
        try:
            partial.chmod(0o755)  # mkdtemp keeps others out, such as libvirt's own user
            pxeboot = partial / "images" / "pxeboot"
            pxeboot.mkdir(parents=True)
            shutil.copyfile(host.kernel.image, partial / _KERNEL)
            initrd = installer_files(host, TEMPLATES, tools)
            _write_initrd(partial / _INITRD, initrd)
            checksums = {name: _sha256(partial / name) for name in (_KERNEL, _INITRD)}
            (partial / ".treeinfo").write_text(treeinfo(checksums))
            for path in partial.rglob("*"):
                _sync(path)
            try:
                partial.rename(final)
            except OSError:
                # Somebody else may have made the same tree meanwhile; theirs is as good.
                if not final.is_dir():
                    raise
            _sync(final.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _write_initrd(path: Path, files: FileTree) -> None:
    # Not compressed: unpacking would cost an emulated guest more than reading does.
    with path.open("wb") as stream:
        write_cpio(files, stream)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
