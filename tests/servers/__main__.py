"""`python -m tests.servers up DIR [--s3] [--ec2]` and `down DIR`: a small cloud to try things on.

`up` prints DIR/endpoints.json; DIR/clouds.yaml goes into OS_CLIENT_CONFIG_FILE.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tests.servers.openstack_cloud import start_detached, stop_detached


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.servers", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    up = actions.add_parser("up", help="start Keystone and Glance")
    up.add_argument("directory", type=Path)
    up.add_argument("--s3", action="store_true", help="and Swift with its S3 interface")
    up.add_argument("--ec2", action="store_true", help="and ec2-api (with --s3)")
    down = actions.add_parser("down", help="stop them")
    down.add_argument("directory", type=Path)
    words = parser.parse_args()
    if words.action == "down":
        stop_detached(words.directory)
        return
    start_detached(words.directory.absolute(), s3=words.s3, ec2=words.ec2)
    print((words.directory / "endpoints.json").read_text(), end="")


if __name__ == "__main__":
    main()
