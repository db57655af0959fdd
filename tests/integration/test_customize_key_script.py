"""The key script, run by the shells and clients that guests have, against a metadata service."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.core.resources import PROJECT
from tests.fixtures.metadata_server import Service, serving

pytestmark = pytest.mark.integration

TEMPLATE = (PROJECT / "templates" / "rc.local").read_text()
SHELLS = {"dash": ["dash"], "ash": ["busybox", "ash"], "bash": ["bash", "--posix"]}
PAIRS = [("dash", "curl"), ("ash", "curl"), ("bash", "curl"), ("dash", "wget"), ("ash", "busybox")]
PAIRS += [("dash", "bash")]  # a guest with no client at all
TOOLS = ["sed", "grep", "head", "tr", "tail", "cat", "mkdir", "chmod", "id", "uname", "sleep"]
TOOLS += ["timeout"]
RSA = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABgQC7 me@rsa"
ED25519 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ1s me@ed25519 with words"
ECDSA = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAA="
SECURITY_KEY = "sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29t usb"
KEYS = {
    0: ("first", RSA),
    1: ("second", f"{ED25519}\n{ECDSA}\n"),
    12: ("last", f"{SECURITY_KEY}\r\n"),
}
ALL = [RSA, ED25519, ECDSA, SECURITY_KEY]


class Machine:
    """A guest's home, console and programs in a directory.

    With busybox as the client all of it is busybox, in a root of its own.
    """

    def __init__(self, directory: Path, shell: str = "dash", client: str = "curl") -> None:
        self.directory, self.shell = directory, SHELLS[shell]
        self.own_root = client == "busybox"
        for name in ("home dir", "bin", "ssh", "dev"):
            (directory / name).mkdir(parents=True)
        self.home, self.bin = directory / "home dir", directory / "bin"
        if self.own_root:
            shutil.copy(shutil.which("busybox") or "", self.bin / "busybox")
            for tool in [*TOOLS, "wget", "nc"]:
                (self.bin / tool).symlink_to("busybox")
            (directory / "dev/null").touch()
        else:
            for tool in [*TOOLS, client]:
                self.add_tool(tool)
        for tool in ("depmod", "modprobe"):
            stub = self.bin / f"{tool}-stub"
            called = self.inside("called")
            stub.write_text(f"#!{self.inside('bin/sh')}\necho {tool} $* >>{called}\nexit 1\n")
            stub.chmod(0o755)
        (self.bin / "sh").symlink_to("busybox" if self.own_root else "/bin/sh")
        self.user = "root" if self.own_root else pwd.getpwuid(os.getuid()).pw_name
        (directory / "passwd").write_text(
            f"other:x:5:5::/nonexistent:/bin/sh\n{self.user}:x:0:0::{self.inside('home dir')}:\n"
        )
        if self.own_root:
            (directory / "etc").mkdir()
            shutil.copy(directory / "passwd", directory / "etc/passwd")
        self.console = directory / "console"

    def inside(self, path: str | Path) -> str:
        """A path of the machine's directory as the machine sees it."""
        whole = self.directory / path
        return f"/{whole.relative_to(self.directory)}" if self.own_root else str(whole)

    def add_tool(self, name: str) -> None:
        (self.bin / name).symlink_to(shutil.which(name) or "")

    @property
    def keys(self) -> Path:
        return self.home / ".ssh" / "authorized_keys"

    def boot(self, url: str, wait: int = 20, **changes: str) -> subprocess.CompletedProcess[str]:
        """Run the script as the guest's init would."""
        text = TEMPLATE
        settings = {
            "key_user": self.user,
            "metadata": url,
            "console": self.inside("console"),
            "passwd": self.inside("passwd"),
            "host_keys": self.inside("ssh"),
            "wait": str(wait),
            "PATH": self.inside("bin"),
        }
        for name, value in (settings | changes).items():
            text, count = re.subn(rf"(?m)^{name}=\S*", f"{name}='{value}'", text)
            assert count == 1, name
        # Some builds of busybox's shell prefer their own applets to whatever is on PATH.
        text, count = re.subn(r"(?m)\b(depmod|modprobe)( -a| acpiphp)$", r"\1-stub\2", text)
        assert count == 2
        script = self.directory / "rc.local"
        script.write_text(text)
        self.console.write_text("")
        command = [*self.shell, self.inside(script), "start"]
        if self.own_root:
            command = ["chroot", str(self.directory), "/bin/busybox", *command[1:]]
        program = shutil.which(command[0])
        assert program
        return subprocess.run(
            [program, *command[1:]],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={"PATH": self.inside("bin"), "http_proxy": "http://127.0.0.1:9"},
        )


@pytest.mark.parametrize(("shell", "client"), PAIRS)
@pytest.mark.parametrize("versions", ["1", "2", "12"])
def test_every_key_once(tmp_path: Path, shell: str, client: str, versions: str) -> None:
    machine = Machine(tmp_path / "m", shell, client)
    service = Service(KEYS, version_1="1" in versions, version_2="2" in versions)
    with serving(service):
        for _ in range(2):
            done = machine.boot(service.url)
            assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
            assert machine.keys.read_text().splitlines() == ALL
    console = machine.console.read_text().splitlines()
    stars = "*" * 24
    assert console == ["AUTHORIZED_KEYS:", stars, *ALL, stars]
    assert machine.keys.stat().st_mode & 0o7777 == 0o600
    assert machine.keys.parent.stat().st_mode & 0o7777 == 0o700
    assert service.requests[0].startswith("PUT /latest/api/token")


@pytest.mark.parametrize(("shell", "client"), PAIRS)
def test_what_the_administrator_wrote_stays(tmp_path: Path, shell: str, client: str) -> None:
    machine = Machine(tmp_path / "m", shell, client)
    theirs = f'# {ECDSA}\nno-pty,command="x  y" {RSA}\nssh-ed25519 AAAAmine'
    machine.keys.parent.mkdir(mode=0o755)
    machine.keys.write_text(theirs)
    machine.keys.chmod(0o644)
    service = Service(KEYS)
    with serving(service):
        machine.boot(service.url)
        machine.boot(service.url)
    added = [ED25519, ECDSA, SECURITY_KEY]  # RSA is there, with options; a comment is no key
    assert machine.keys.read_text() == "\n".join([theirs, *added]) + "\n"
    assert machine.keys.stat().st_mode & 0o7777 == 0o600
    assert machine.keys.parent.stat().st_mode & 0o7777 == 0o700


@pytest.mark.parametrize(("shell", "client"), PAIRS)
def test_a_service_that_is_slow_to_come_up(tmp_path: Path, shell: str, client: str) -> None:
    machine = Machine(tmp_path / "m", shell, client)
    failing = {"/latest/meta-data/public-keys/1/openssh-key"}
    service = Service(KEYS, failures=4, failing=failing)
    with serving(service):
        machine.boot(service.url)
    assert sorted(machine.keys.read_text().splitlines()) == sorted(ALL)
    assert "did not give" not in machine.console.read_text()


@pytest.mark.parametrize(("shell", "client"), PAIRS)
def test_garbage_is_not_a_key(tmp_path: Path, shell: str, client: str) -> None:
    machine = Machine(tmp_path / "m", shell, client)
    service = Service({}, garbage=True)
    with serving(service):
        done = machine.boot(service.url, wait=1)
    assert (done.returncode, done.stderr) == (0, "")
    assert not machine.keys.exists()
    assert "did not give all SSH keys" in machine.console.read_text()


def test_lines_that_are_no_keys_are_left_out(tmp_path: Path) -> None:
    text = f"\n# c\nssh-rsa\nssh-rsa BBBB\nssh-rsa AAAA$(id)\n-e AAAA\n{ED25519}\nx ssh-rsa AAAA\n"
    machine = Machine(tmp_path / "m")
    service = Service({0: ("a", text)})
    with serving(service):
        machine.boot(service.url)
    assert machine.keys.read_text().splitlines() == [ED25519]


def test_an_instance_without_keys_does_not_wait(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "m")
    service = Service({})
    with serving(service):
        machine.boot(service.url, wait=1000)
    assert len(service.requests) == 3
    assert not machine.keys.exists()
    assert machine.console.read_text().splitlines()[0] == "AUTHORIZED_KEYS:"


def test_no_service_at_all_ends_in_time(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "m")
    done = machine.boot("http://127.0.0.1:9", wait=2)
    assert done.returncode == 0
    assert "did not give all SSH keys" in machine.console.read_text()


def test_no_user_of_that_name(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "m")
    done = machine.boot("http://127.0.0.1:9", key_user="nobody-here")
    assert done.returncode == 0
    assert "no user nobody-here" in machine.console.read_text()


def test_modules_are_harmless(tmp_path: Path) -> None:
    """depmod only where its result is missing, and both may fail (the stubs do)."""
    machine = Machine(tmp_path / "m")
    service = Service(KEYS)
    with serving(service):
        machine.boot(service.url)
    calls = (machine.directory / "called").read_text().splitlines()
    listed = Path("/lib/modules", os.uname().release, "modules.dep").exists()
    assert calls == ([] if listed else ["depmod -a"]) + ["modprobe acpiphp"]


def test_host_keys_are_made_only_if_there_are_none(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "m")
    machine.add_tool("ssh-keygen")
    keys = machine.directory / "ssh"
    service = Service(KEYS)
    with serving(service):
        machine.boot(service.url)
        made = {p.name: p.read_bytes() for p in keys.iterdir()}
        machine.boot(service.url)
    assert {n for n in made if not n.endswith(".pub")} == {
        "ssh_host_rsa_key",
        "ssh_host_ecdsa_key",
        "ssh_host_ed25519_key",
    }
    assert {p.name: p.read_bytes() for p in keys.iterdir()} == made


def test_their_part_runs_after_ours(tmp_path: Path) -> None:
    """A merged script: both parts run, and theirs under its own shell options."""
    from pipeline.guest.customize.boot_hooks import merged

    machine = Machine(tmp_path / "m")
    theirs = (
        f"#!/bin/sh -e\necho before >>{machine.directory}/theirs\nfalse\necho never >>/dev/full\n"
    )
    script = machine.directory / "merged"
    service = Service(KEYS)
    with serving(service):
        machine.boot(service.url)
        machine.keys.unlink()
        script.write_text(merged((machine.directory / "rc.local").read_text(), theirs))
        done = subprocess.run(["dash", script], capture_output=True, check=False, timeout=60)
    assert done.returncode == 1
    assert (machine.directory / "theirs").read_text() == "before\n"
    assert machine.keys.read_text().splitlines() == ALL


def test_shellcheck_finds_nothing() -> None:
    files = [PROJECT / "templates" / name for name in ("rc.local", "rc.local.init")]
    done = subprocess.run(
        ["shellcheck", "--severity=style", *files], capture_output=True, text=True, check=False
    )
    assert done.stdout == ""
