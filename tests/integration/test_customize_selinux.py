"""The labels of a customised file system, as the kernel would find them on the disk."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pipeline.core.events import QuietProgress
from pipeline.core.image import Acceleration, PartitionImage
from pipeline.core.resources import TEMPLATES
from pipeline.guest.access.open import open_guest
from pipeline.guest.customize.apply import customize
from pipeline.host.context import Tools
from pipeline.host.programs import Runner
from tests.unit.guest.customize.test_apply import FEDORA_15

pytestmark = pytest.mark.integration

RULES = """/.*  system_u:object_r:default_t:s0
/etc(/.*)?  system_u:object_r:etc_t:s0
/etc/rc\\.d/rc\\.[^/]*  --  system_u:object_r:initrc_exec_t:s0
/etc/rc\\.local  -l  system_u:object_r:etc_link_t:s0
/etc/sysconfig/network-scripts/ifcfg-[^/]+  --  system_u:object_r:net_conf_t:s0
"""
EXPECTED = {
    "/etc/fstab": "etc_t",
    "/etc/rc.d/rc.local": "initrc_exec_t",
    "/etc/rc.local": "etc_link_t",
    "/etc/sysconfig/network-scripts/ifcfg-eth0": "net_conf_t",
    "/etc/passwd": "",  # not edited: what the installer labelled is left alone
}


def make_root(directory: Path) -> None:
    contexts = "/etc/selinux/targeted/contexts/files/file_contexts"
    for path, content in sorted({**FEDORA_15, contexts: RULES}.items()):
        file = directory / path[1:]
        file.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            file.mkdir(exist_ok=True)
        elif isinstance(content, (str, bytes)):
            file.write_bytes(content.encode() if isinstance(content, str) else content)
        else:
            file.symlink_to(content["link"])


def test_every_edited_file_has_the_policys_label(tmp_path: Path) -> None:
    make_root(tmp_path / "root")
    image = tmp_path / "root.img"
    subprocess.run(["truncate", "-s", "64M", image], check=True)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", tmp_path / "root", image], check=True)
    uuid = subprocess.run(
        ["blkid", "-p", "-o", "value", "-s", "UUID", image],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    partition = PartitionImage(image, 64 << 20, "ext4", uuid, "", "")
    with Runner() as run:
        tools = Tools(run, QuietProgress(), tmp_path)
        with open_guest(
            partition,
            None,
            backend="e2fsprogs",
            acceleration=Acceleration("tcg", ""),
            tools=tools,
        ) as guest:
            made = customize(guest, user="root", templates=TEMPLATES, tools=tools)
    assert made.relabel == "labelled"
    for path, kind in EXPECTED.items():
        told = subprocess.run(
            ["debugfs", "-R", f"ea_get -V {path} security.selinux", image],
            capture_output=True,
            check=True,
        ).stdout.removesuffix(b"\n")
        assert told == (f"system_u:object_r:{kind}:s0".encode() + b"\0" if kind else b""), path
