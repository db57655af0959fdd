"""Virtual environments for the servers, apart from the product's: made once, then cached.

Each is named by its lock file's digest, so a changed lock makes a new one.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal

from pipeline.core.resources import PROJECT
from pipeline.core.settings import cache_dir
from pipeline.host.locks import exclusive

Name = Literal["openstack", "ec2api"]
_INSTALL_SECONDS = 900  # 139 packages and their byte code: two minutes here, times a slow network


def cache() -> Path:
    """Where environments and seeded databases are kept; safe to delete."""
    return cache_dir() / "test-servers"


def lock_file(name: Name) -> Path:
    return PROJECT / "setup" / f"servers-{name}.lock"


def interpreter(name: Name) -> Path:
    """Python of that environment, installed first if need be."""
    digest = hashlib.sha256(lock_file(name).read_bytes()).hexdigest()[:16]
    directory = cache() / f"{name}-{digest}"
    python = directory / "bin" / "python"
    whole = directory / ".whole"
    if not whole.exists():
        with exclusive(cache() / f"{name}.lock", f"the {name} servers", wait=_INSTALL_SECONDS):
            if not whole.exists():
                _install(name, directory)
                whole.touch()
    return python


def _install(name: Name, directory: Path) -> None:
    uv = str(Path(sys.prefix) / "bin" / "uv")
    shutil.rmtree(directory, ignore_errors=True)
    _run([uv, "venv", "-q", "--python", sys.executable, str(directory)])
    install = [uv, "pip", "install", "-q", "--python", str(directory / "bin" / "python")]
    # Without byte code every start of a server would compile its libraries again.
    _run([*install, "--compile-bytecode", "--require-hashes", "-r", str(lock_file(name))])


def _run(argv: list[str]) -> None:
    done = subprocess.run(
        argv,
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_INSTALL_SECONDS,
    )
    if done.returncode:
        raise RuntimeError(f"{argv}: exit status {done.returncode}\n{done.stderr[-4000:]}")
