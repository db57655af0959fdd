"""python -m tests.fakes [--latency-ms N]: a stand-in until standard input ends; prints its URL.

Every call is answered N milliseconds late, as by a cloud that is far away.
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.fakes.protocol import Answer
from tests.fakes.server import running


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fakes")
    parser.add_argument("--latency-ms", type=float, default=0.0)
    seconds = parser.parse_args().latency_ms / 1000

    def late(_service: str, _operation: str, _number: int) -> Answer | None:
        time.sleep(seconds)
        return None

    with running() as cloud:
        cloud.fault = late
        print(cloud.url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
