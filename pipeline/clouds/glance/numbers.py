"""Which ids of a build's images are spent in Glance, remembered on this host."""

from __future__ import annotations

import contextlib
import hashlib
import json

from pipeline.clouds.glance.images import record_id
from pipeline.core import settings
from pipeline.host.files import write_whole

_NUMBERS = 64  # how far an image's number may lie beyond those that this host knows of


class UsedNumbers:
    """Which numbers of `record_id` are spent, as far as this host knows.

    Kept below the cache directory, so that a build which was deleted many times is made again
    without asking for each of those ids. Without it nothing but time is lost.
    """

    def __init__(self, url: str, project: str, key: str) -> None:
        self._project, self._key = project, key
        name = hashlib.sha256(f"{url} {project} {key}".encode()).hexdigest()[:32]
        self._path = settings.cache_dir() / "glance" / f"{name}.json"

    def first(self, role: str) -> int:
        """The first number that is not known to be spent."""
        return self._read().get(role, 0)

    def spend(self, role: str, number: int) -> None:
        """Record that the id of that number is deleted."""
        spent = self._read()
        if number < spent.get(role, 0):
            return
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._path, json.dumps(spent | {role: number + 1}))

    def spend_id(self, role: str, image_id: str) -> None:
        """The same for an image by its id; one that was named otherwise is left out."""
        first = self.first(role)
        for number in range(first, first + _NUMBERS):
            if record_id(self._project, self._key, role, number) == image_id:
                self.spend(role, number)

    def _read(self) -> dict[str, int]:
        try:
            found = json.loads(self._path.read_text())
            return {str(role): int(number) for role, number in found.items()}
        except (OSError, ValueError, AttributeError, TypeError):
            return {}
