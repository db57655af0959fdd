"""python -m tests.contract.child WORD DIRECTORY SEED [KILL_AT]: one upload in a process of its own.

Kills itself without warning at the call of progress numbered KILL_AT. Prints the registration.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path

from pipeline.clouds.protocol import PublishOptions
from pipeline.clouds.registry import open_clouds
from tests.contract.observers import Observed
from tests.contract.site import make_images


def main() -> None:
    word, directory, seed = sys.argv[1:4]
    kill_at = int(sys.argv[4]) if len(sys.argv) > 4 else -1

    def at(number: int, _text: str) -> None:
        if number == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    images = make_images(Path(directory), seed=int(seed))
    (cloud,) = open_clouds([word])
    registration = cloud.publish(images, PublishOptions(), Observed(at))
    print(json.dumps(asdict(registration)))


if __name__ == "__main__":
    main()
