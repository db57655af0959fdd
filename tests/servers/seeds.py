"""Databases seeded once and copied for every start: minutes of migrations become milliseconds."""

from __future__ import annotations

import hashlib
import inspect
import shutil
from collections.abc import Callable
from pathlib import Path

from pipeline.host.locks import exclusive
from tests.servers.environments import Name, cache, lock_file
from tests.servers.processes import START_SECONDS


def copy_seed(service: str, environment: Name, target: Path, make: Callable[[Path], None]) -> None:
    """Fill `target` with what `make` leaves in a directory, made at most once.

    The cache's key is the servers' lock and the source of the module that makes the seed.
    """
    digest = hashlib.sha256(lock_file(environment).read_bytes())
    digest.update(Path(inspect.getfile(make)).read_bytes())
    seed = cache() / f"seed-{service}-{digest.hexdigest()[:16]}"
    with exclusive(cache() / f"seed-{service}.lock", f"the {service} seed", wait=START_SECONDS * 2):
        if not seed.exists():
            for old in cache().glob(f"seed-{service}-*"):
                shutil.rmtree(old, ignore_errors=True)
            partial = cache() / f"{service}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            make(partial)
            partial.rename(seed)
        shutil.copytree(seed, target, dirs_exist_ok=True)
