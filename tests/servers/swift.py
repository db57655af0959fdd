"""Swift on one directory with its S3 interface, authenticated by Keystone's EC2 keys."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from textwrap import dedent

from tests.servers.environments import interpreter
from tests.servers.keystone import REGION, service_login
from tests.servers.processes import Processes, free_port, run

_RING = """
import sys
from swift.common.ring import RingBuilder
path, port = sys.argv[1], int(sys.argv[2])
ring = RingBuilder(4, 1, 0)
ring.add_dev({"region": 1, "zone": 1, "ip": "127.0.0.1", "port": port, "device": "disk",
              "replication_ip": "127.0.0.1", "replication_port": port, "weight": 1.0, "meta": ""})
ring.rebalance()
ring.get_ring().save(path)
"""
_PIPELINE = (
    "catch_errors listing_formats bulk authtoken s3api s3token keystoneauth slo dlo proxy-server"
)
_FILTERS = ("catch_errors", "listing_formats", "bulk", "slo", "dlo")


def start(processes: Processes, directory: Path, port: int, keystone: str) -> str:
    """Start the four servers; the S3 endpoint's URL."""
    configuration = directory / "etc"
    configuration.mkdir(parents=True)
    (directory / "devices" / "disk").mkdir(parents=True)
    (configuration / "swift.conf").write_text(
        "[swift-hash]\nswift_hash_path_suffix = tests\nswift_hash_path_prefix = tests\n"
        "[storage-policy:0]\nname = only\ndefault = yes\n"
    )
    log = directory / "rings.log"
    for kind in ("object", "container", "account"):
        storage_port = free_port()
        path = configuration / f"{kind}-server.conf"
        path.write_text(
            _common(directory, storage_port)
            + dedent(f"""
            devices = {directory}/devices
            mount_check = false
            disable_fallocate = true
            fallocate_reserve = 0
            [pipeline:main]
            pipeline = {kind}-server
            [app:{kind}-server]
            use = egg:swift#{kind}
            """)
        )
        ring = configuration / f"{kind}.ring.gz"
        run([interpreter("openstack"), "-c", _RING, ring, str(storage_port)], log)
        processes.start(f"swift-{kind}", [_program(f"swift-{kind}-server"), path])
    path = configuration / "proxy-server.conf"
    path.write_text(_common(directory, port) + _proxy(keystone))
    processes.start("swift-proxy", [_program("swift-proxy-server"), path])
    url = f"http://127.0.0.1:{port}"
    processes.wait_for("swift-proxy", f"{url}/info")
    return url


def _program(name: str) -> Path:
    return interpreter("openstack").with_name(name)


def _common(directory: Path, port: int) -> str:
    return dedent(f"""
        [DEFAULT]
        bind_ip = 127.0.0.1
        bind_port = {port}
        workers = 0
        user = {pwd.getpwuid(os.getuid()).pw_name}
        swift_dir = {directory}/etc
        """)


def _proxy(keystone: str) -> str:
    text = dedent(f"""
        [pipeline:main]
        pipeline = {_PIPELINE}
        [app:proxy-server]
        use = egg:swift#proxy
        account_autocreate = true
        [filter:s3api]
        use = egg:swift#s3api
        location = {REGION}
        [filter:keystoneauth]
        use = egg:swift#keystoneauth
        operator_roles = admin, member
        """)
    text += "".join(f"[filter:{name}]\nuse = egg:swift#{name}\n" for name in _FILTERS)
    text += service_login(keystone, "filter:s3token")
    text += f"use = egg:swift#s3token\nauth_uri = {keystone}\ndelay_auth_decision = true\n"
    text += service_login(keystone, "filter:authtoken")
    text += "paste.filter_factory = keystonemiddleware.auth_token:filter_factory\n"
    text += "delay_auth_decision = true\n"
    return text
