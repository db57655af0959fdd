"""A build and uploads with secrets in everything the pipeline is given; then they are looked for.

In the argument lists and environments of all children, in everything that was shown and written,
and in the images.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.contract.ec2_site import standin
from tests.robustness.faults.disks import small_disk
from tests.servers.processes import free_port

ROOT = Path(__file__).parent.parent.parent
pytestmark = pytest.mark.integration

MARK = "Marked-As-Secret"
SECRETS = {
    "OS_AUTH_TYPE": "password",
    "OS_USERNAME": "demo",
    "OS_PASSWORD": f"{MARK}-openrc",
    "OS_PROJECT_NAME": "demo",
    "OS_USER_DOMAIN_ID": "default",
    "OS_PROJECT_DOMAIN_ID": "default",
    "OS_REGION_NAME": "here",
}


@dataclass
class Watch:
    """What was seen of a process's descendants. main: itself, which may know all."""

    main: int
    programs: set[str] = field(default_factory=set)
    leaks: set[str] = field(default_factory=set)

    def look(self) -> None:
        words_of_main = self._read(self.main, "cmdline")
        if MARK.encode() in words_of_main:
            self.leaks.add("the command itself")
        for pid in self._descendants(self.main):
            words = self._read(pid, "cmdline")
            if not words or words == words_of_main:  # forked, and not yet another program
                continue
            name = words.split(b"\0")[0].decode(errors="replace")
            self.programs.add(name)
            if MARK.encode() in words:
                self.leaks.add(f"arguments of {name}")
            if MARK.encode() in self._read(pid, "environ") and (
                self._read(pid, "cmdline") == words != words_of_main
            ):
                self.leaks.add(f"environment of {name}")

    def _descendants(self, pid: int) -> Iterator[int]:
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                for child in map(int, task.read_text().split()):
                    yield child
                    yield from self._descendants(child)

    def _read(self, pid: int, name: str) -> bytes:
        try:
            return Path(f"/proc/{pid}/{name}").read_bytes()
        except OSError:
            return b""


def run(directory: Path, environment: dict[str, str], *words: str) -> tuple[int, str, Watch]:
    """Run invoke's words; the status, all that was shown, and what its children had."""
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "invoke", "--search-root", str(ROOT), *words],
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        watch = Watch(process.pid)

        def look() -> None:
            while process.poll() is None:
                watch.look()
                time.sleep(0.002)

        watcher = threading.Thread(target=look)
        watcher.start()
        shown = process.communicate(timeout=600)[0]
        watcher.join()
    return process.returncode, shown, watch


def files_with_secrets(directory: Path) -> list[str]:
    return [
        str(path.relative_to(directory))
        for path in directory.rglob("*")
        if path.is_file() and not path.is_symlink() and MARK.encode() in path.read_bytes()
    ]


def test_secrets_reach_no_child_no_log_and_no_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = small_disk(tmp_path / "disk.img")
    work = tmp_path / "work"
    work.mkdir()
    # Where nothing listens: the error must not quote the credentials it was tried with.
    nowhere = f"http://demo:{MARK}-url@127.0.0.1:{free_port()}/v3"
    monkeypatch.setenv("IMAGE_PIPELINE_CONFIG", str(tmp_path / "config"))
    with standin(tmp_path) as (cloud, certificate):
        cloud.secrets["AKMINE"] = f"{MARK}-ec2"
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("OS_", "AWS_", "EC2_"))},
            **cloud.environment,
            **SECRETS,
            "OS_AUTH_URL": nowhere,
            "AWS_ACCESS_KEY_ID": "AKMINE",
            "AWS_SECRET_ACCESS_KEY": f"{MARK}-ec2",
            "EC2_BUCKET": "images",
            "EUCALYPTUS_CERT": str(certificate),
            "http_proxy": f"http://me:{MARK}-proxy@127.0.0.1:9/",
            "no_proxy": "127.0.0.1",
            "IMAGE_PIPELINE_CATALOGUE": str(work / "catalogue"),
            "IMAGE_PIPELINE_CACHE": str(work / "cache"),
        }
        build = ["build", "demo", "--disk", str(disk), "--no-verify", "--debug"]
        upload = ["upload", "--unverified", "--debug", "--cloud", "local", "--cloud", "ec2"]
        status, shown, watch = run(work, environment, *build, *upload, "--cloud", "glance")
        assert status == 7, shown
        assert "glance" in shown and "ec2: demo registered" in shown and len(cloud.ec2.images) == 3
        assert any("e2fsck" in name or "setpriv" in name for name in watch.programs)
        assert watch.leaks == set()
        assert MARK not in shown
        assert files_with_secrets(work) == []
        assert all(MARK.encode() not in (image.data or b"") for image in cloud.ec2.images.values())
        status, shown, watch = run(work, environment, "list", "--json")
        assert status == 0 and MARK not in shown
        assert json.loads(shown)


def test_the_watch_sees_a_leak(tmp_path: Path) -> None:
    program = f"import subprocess; subprocess.run(['sleep', '1', '--', '{MARK}'][:2])"
    environment = {**os.environ, "LEAKED": MARK}
    with subprocess.Popen([sys.executable, "-c", program], env=environment) as process:
        watch = Watch(process.pid)
        while process.poll() is None:
            watch.look()
    assert "environment of sleep" in watch.leaks
    assert "the command itself" in watch.leaks
