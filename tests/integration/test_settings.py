"""What a recipe sets after the packages, on a real Debian root, asked of the guest's programs."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.builders.packages.settings import Script, apply
from pipeline.core.errors import InputError, InstallError
from pipeline.core.packages import PackageSystem
from pipeline.host.ids import WHOLE
from pipeline.host.isolation import Isolation, Root, remove_tree, run_inside
from tests.fixtures.isolated import PYTHON, as_builder
from tests.fixtures.package_roots import Layers, debian_layers, root_tarball

pytestmark = pytest.mark.integration

EPOCH = 1_700_000_000
ROOT_HASH, JOE_HASH = ("$6$salt$" + letter * 86 for letter in "ab")
LEAST: dict[str, Any] = {
    "distribution": "debian",
    "release": "bookworm",
    "repositories": ({"name": "main", "urls": ("https://deb.example/",), "keys": ("k.gpg",)},),
}
FULL: dict[str, Any] = LEAST | {
    "root_password_hash": ROOT_HASH,
    "root_ssh_keys": ("ssh-ed25519 AAAA root",),
    "users": (
        {
            "name": "joe",
            "groups": ("sudo", "ops"),
            "password": JOE_HASH,
            "ssh_keys": ("ssh-ed25519 J",),
        },
        {"name": "ann", "uid": 1000, "gecos": "Ann O'Nymous", "shell": "/bin/sh"},
    ),
    "user_groups": ({"name": "ops"},),
    "locale": "de_DE.UTF-8",
    "timezone": "Europe/Berlin",
    "hostname": "box.example",
    "keyboard": "de-nodeadkeys",
    "services_enabled": ("sshd", "serial-getty@ttyS0"),
    "services_disabled": ("systemd-pstore", "none-such"),
    "firewall": {"services": ("ssh",), "ports": ("8080/tcp",)},
    "files": (
        {"path": "/opt/a/b", "content": "hi\n", "owner": "joe", "group": "ops", "mode": "4750"},
        {"path": "/etc/motd", "content": "welcome\n"},
    ),
}
MAKES = Script(
    "makes", b"echo made >/etc/made; echo $HOME >>/etc/made; useradd --system late\nls /.image*\n"
)


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Layers]:
    directory = tmp_path_factory.mktemp("settings")
    made = debian_layers(directory)
    yield made
    for layer in (*directory.glob("*.upper"), *directory.glob("*work"), made.base):
        remove_tree(made.isolation, layer, made.tools)
    made.tools.run.close()


def set_up(layers: Layers, root: Root, *scripts: Script, **fields: Any) -> tuple[str, ...]:
    system = PackageSystem.model_validate(fields or FULL)
    log = layers.directory / f"{root.upper.name}.log"
    return apply(
        system, root, layers.isolation, layers.tools, epoch=EPOCH, log=log, scripts=scripts
    )


def inside(layers: Layers, root: Root, command: str) -> str:
    done = run_inside(
        layers.isolation, root, ["/bin/sh", "-c", command], tools=layers.tools, timeout=60
    )
    return done.text


@pytest.fixture(scope="module")
def full(layers: Layers) -> Root:
    root = layers.above("full")
    set_up(layers, root, MAKES)
    return root


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("getent passwd ann", "ann:x:1000:1000:Ann O'Nymous:/home/ann:/bin/sh"),
        ("getent passwd joe", "joe:x:1001:1001::/home/joe:/bin/bash"),
        ("getent group ops", "ops:x:1002:joe"),
        ("id -nG joe", "joe sudo ops"),
        ("passwd -S root", "root P 2023-11-14 0 99999 7 -1"),
        ("passwd -S joe", "joe P 2023-11-14 0 99999 7 -1"),
        ("passwd -S ann", "ann L 2023-11-14 0 99999 7 -1"),
        ("getent shadow joe | cut -d: -f2", JOE_HASH),
        ("grep -c . /etc/subuid", "2"),
        ("stat -c '%U %G %a' /home/joe /home/joe/.bashrc", "joe joe 755\njoe joe 644"),
        ("stat -c '%U %a' /home/joe/.ssh /home/joe/.ssh/authorized_keys", "joe 700\njoe 600"),
        ("cat /root/.ssh/authorized_keys", "ssh-ed25519 AAAA root"),
        ("stat -c '%U %G %a' /opt/a/b /opt/a", "joe ops 4750\nroot root 755"),
        ("cat /etc/motd", "welcome"),
        ("cat /etc/made; getent passwd late | cut -d: -f1", "made\n/root\nlate"),
        ("getent shadow late | cut -d: -f3", str(EPOCH // 86400)),
        ("cat /etc/default/locale; LC_ALL=de_DE.UTF-8 locale charmap", "LANG=de_DE.UTF-8\nUTF-8"),
        ("cat /etc/timezone; readlink /etc/localtime; date +%Z -d 2026-01-01",
         "Europe/Berlin\n../usr/share/zoneinfo/Europe/Berlin\nCET"),
        ("cat /etc/hostname", "box.example"),
        ("grep ^XKB /etc/default/keyboard | sort",
         'XKBLAYOUT="de"\nXKBMODEL="pc105"\nXKBVARIANT="nodeadkeys"'),
        ("systemctl is-enabled ssh serial-getty@ttyS0 firewalld", "enabled\nenabled\nenabled"),
        ("systemctl is-enabled systemd-pstore || true", "disabled"),
        ("cat /etc/systemd/system-preset/*",
         "enable ssh.service\nenable serial-getty@ttyS0.service\n"
         "disable systemd-pstore.service"),
        ("firewall-offline-cmd --list-services; firewall-offline-cmd --list-ports",
         "dhcpv6-client ssh\n8080/tcp"),
        ("ls -d /etc/*- /.image* /etc/firewalld/zones/*.old 2>/dev/null || true", ""),
        ("pwck -rq; grpck -r", ""),
    ],
)  # fmt: skip
def test_the_guests_own_programs_say(command: str, said: str, layers: Layers, full: Root) -> None:
    assert inside(layers, full, command).strip() == said


def test_the_same_gives_the_same_bytes_and_twice_is_once(layers: Layers, full: Root) -> None:
    first, again = layers.above("first"), layers.above("again")
    set_up(layers, first)
    set_up(layers, again)
    once = layers.listing(first)
    assert layers.listing(again) == once
    set_up(layers, again)
    assert layers.listing(again) == once


def test_the_hashes_are_in_no_log_and_no_command(layers: Layers) -> None:
    root = layers.above("secret")
    set_up(layers, root, Script("tells", b"cat /etc/shadow"))
    log = (layers.directory / "secret.upper.log").read_text()
    assert "joe:****:" in log
    assert JOE_HASH not in log
    commands = (layers.directory / "log.sh").read_text()
    assert "settings" in commands
    assert JOE_HASH not in commands
    assert ROOT_HASH not in commands


def test_without_a_hash_root_is_locked(layers: Layers) -> None:
    root = layers.above("locked")
    assert set_up(layers, root, **LEAST) == ()
    assert inside(layers, root, "passwd -S root").startswith("root L 2023-11-14")


def test_a_script_that_fails(layers: Layers) -> None:
    root = layers.above("fails")
    with pytest.raises(InstallError) as caught:
        set_up(
            layers,
            root,
            Script("one", b"echo fine"),
            Script("two", f"echo 'sorry {JOE_HASH}' >&2; exit 3".encode()),
            Script("three", b"echo never"),
        )
    said = str(caught.value)
    assert "Cannot run the script two in debian bookworm: exit status 3: sorry ****" in said
    assert "fails.upper.log" in said
    log = (layers.directory / "fails.upper.log").read_text()
    assert "fine" in log
    assert "never" not in log


def test_a_script_that_is_killed(layers: Layers) -> None:
    with pytest.raises(InstallError, match="run the script dies in"):
        set_up(layers, layers.above("killed"), Script("dies", b"kill -9 $$"), **LEAST)


def test_a_script_that_kills_all_around_it(layers: Layers) -> None:
    with pytest.raises((InstallError, Exception), match=r"run the (script|recipe's steps)"):
        set_up(layers, layers.above("all"), Script("all", b"kill -9 -1; sleep 9; kill 0"), **LEAST)


def test_a_script_that_says_it_is_done(layers: Layers) -> None:
    lies = b"echo; echo '#step 7777'; echo '#status 9999 0'; exit 4"
    with pytest.raises(InstallError, match=r"run the script lies in .*exit status 4"):
        set_up(layers, layers.above("lies"), Script("lies", lies), **LEAST)


def test_a_script_has_no_network_and_no_file_of_the_host(layers: Layers, tmp_path: Path) -> None:
    looks = f"test ! -e {tmp_path} && test $(ls /sys/class/net 2>/dev/null | wc -w) -le 1"
    assert set_up(layers, layers.above("looks"), Script("looks", looks.encode()), **LEAST) == ()


def test_a_script_may_fail_where_it_is_said(layers: Layers) -> None:
    root = layers.above("may")
    (note,) = set_up(layers, root, Script("may", b"exit 7", needed=False), **LEAST)
    assert note == "It failed to run the script may, exit status 7; the build went on"


def test_an_interpreter_of_its_own(layers: Layers) -> None:
    root = layers.above("perl")
    perl = Script("perl", b"#!/usr/bin/perl\nopen(F, '>', '/etc/made'); print F $0;\n")
    set_up(layers, root, perl, **LEAST)
    assert inside(layers, root, "cat /etc/made").endswith("/script0")


def test_all_that_the_guest_lacks_is_told_at_once(layers: Layers) -> None:
    root = layers.above("lacks")
    with pytest.raises(InputError) as caught:
        set_up(
            layers,
            root,
            Script("odd", b"#!/usr/bin/fish\n"),
            **LEAST,
            users=({"name": "joe", "shell": "/bin/zsh", "groups": ("docker",)},),
            locale="xx_XX.UTF-8",
            timezone="Europe/Berlyn",
            services_enabled=("sshh",),
            selinux="enforcing",
            files=({"path": "/etc/x", "content": "", "owner": "nobody-here"},),
        )
    said = str(caught.value)
    for words in (
        "8 faults",
        "the shell /bin/zsh is not in the guest",
        "there is no group docker",
        "knows no locale xx_XX.UTF-8",
        "no time zone Europe/Berlyn, did you mean Europe/Berlin?",
        "there is no service sshh, did you mean ssh?",
        "SELinux enforcing: the guest has no /etc/selinux/config",
        "/etc/x: the guest has no user nobody-here",
        "odd: its interpreter /usr/bin/fish is not in the guest",
    ):
        assert words in said, said


def test_links_of_the_guest_lead_nowhere_else(layers: Layers, tmp_path: Path) -> None:
    """A package may have left any link: all are the guest's own, and the host is untouched."""
    mine = tmp_path / "mine"
    mine.mkdir()
    root = layers.above("links")
    inside(layers, root, f"ln -s {mine} /srv/away; ln -s {mine}/name /etc/hostname.new")
    inside(layers, root, f"rm -f /etc/hostname; ln -s {mine}/name /etc/hostname; ln -s / /srv/top")
    with pytest.raises(InputError, match="/srv/away/x: above it /srv/away is no directory"):
        set_up(layers, root, **LEAST, files=({"path": "/srv/away/x", "content": "x"},))
    set_up(layers, root, **LEAST, files=({"path": "/srv/top/etc/x", "content": "x"},))
    assert list(mine.iterdir()) == []
    assert inside(layers, root, "cat /etc/x") == "x"


def test_a_firewall_that_is_not_firewalld_is_told(layers: Layers) -> None:
    root = layers.above("bare")
    inside(layers, root, "rm -f /usr/bin/firewall-offline-cmd")
    (note,) = set_up(layers, root, **LEAST, firewall={"services": ("ssh",)})
    assert "left as the packages made it: the guest has no firewalld" in note


def test_a_file_of_the_host_that_guests_may_not_read(layers: Layers, tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    source = private / "key"
    source.write_bytes(b"\0\xff" * 300_000)
    source.chmod(0o600)
    root = layers.above("source")
    file = {"path": "/etc/key", "source": source, "mode": "0400", "owner": "root"}
    set_up(layers, root, **LEAST, files=(file,))
    assert inside(layers, root, "stat -c '%s %a %u' /etc/key").strip() == "600000 400 0"


def test_the_files_of_another_family(layers: Layers) -> None:
    """What dnf's distributions keep elsewhere, on the one root that there is."""
    root = layers.above("other")
    inside(layers, root, "mkdir /etc/selinux; echo SELINUX=enforcing >/etc/selinux/config")
    inside(layers, root, "echo FONT=eurlatgr >/etc/vconsole.conf; rm /usr/sbin/locale-gen")
    other = LEAST | {"distribution": "el", "release": "9"}
    fields = {"locale": "fr_FR.UTF-8", "selinux": "permissive", "keyboard": "fr"}
    assert set_up(layers, root, **other, **fields) == ()
    once = layers.listing(root)
    for command, said in (
        ("cat /etc/locale.conf; LC_ALL=fr_FR.UTF-8 locale charmap", "LANG=fr_FR.UTF-8\nUTF-8\n"),
        ("cat /etc/selinux/config", "SELINUX=permissive\n"),
        ("cat /etc/vconsole.conf", "FONT=eurlatgr\nKEYMAP=fr\n"),
        ("ls /etc/timezone 2>/dev/null || true", "/etc/timezone\n"),  # of the packages
    ):
        assert inside(layers, root, command) == said
    set_up(layers, root, **other, **fields)
    assert layers.listing(root) == once
    with pytest.raises(InputError, match="add the package glibc-langpack-xx"):
        set_up(layers, root, **other, locale="xx_XX.UTF-8")


def test_without_systemd_services_are_links_of_runlevels(layers: Layers) -> None:
    root = layers.above("runlevels")
    inside(layers, root, "rm /usr/bin/systemctl /lib/systemd/systemd; update-rc.d ssh remove")
    set_up(layers, root, **LEAST, services_enabled=("ssh",), services_disabled=("procps",))
    assert inside(layers, root, "ls /etc/rc2.d | grep -c S..ssh").strip() == "1"
    assert "ssh" not in inside(layers, root, "ls /etc/systemd/system-preset 2>/dev/null || true")


def test_a_service_that_is_masked_can_be_enabled(layers: Layers) -> None:
    root = layers.above("masked")
    inside(layers, root, "ln -sf /dev/null /etc/systemd/system/ssh.service")
    set_up(layers, root, **LEAST, services_enabled=("ssh",))
    assert inside(layers, root, "systemctl is-enabled ssh").strip() == "enabled"


def test_in_a_container_without_namespaces(layers: Layers, tmp_path: Path) -> None:
    """Where nothing is shut off but by chroot, the layer is the whole root."""
    if os.geteuid():
        pytest.skip("nobody but root can change the root without a user namespace")
    plain = Isolation("root", 0, WHOLE, overlay=False, namespaces=False)
    upper, work = tmp_path / "upper", tmp_path / "work"
    upper.mkdir()
    work.mkdir()
    unpack = ["tar", "-C", str(upper), "-xpf", str(root_tarball()), "--exclude=./dev/*"]
    layers.tools.run.run(unpack, timeout=300)
    source = tmp_path / "source"
    source.write_text("from the host")
    system = PackageSystem.model_validate(
        LEAST | {"users": ({"name": "joe"},), "files": ({"path": "/etc/x", "source": source},)}
    )
    root = Root((), upper, work)
    apply(
        system,
        root,
        plain,
        layers.tools,
        epoch=EPOCH,
        log=tmp_path / "log",
        scripts=(Script("touches", b"touch /etc/touched"),),
    )
    assert (upper / "etc/x").read_text() == "from the host"
    assert (upper / "etc/touched").stat().st_mtime == EPOCH
    assert (upper / "home/joe").stat().st_uid == 1000
    assert not (upper / ".image-pipeline").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes an ordinary user")
def test_the_same_as_an_ordinary_user() -> None:
    chosen = "says and (passwd or authorized) or twice or hashes or may_not_read or that_fails"
    argv = [PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", chosen]
    # Not tmp_path: pytest closes its parents to all others.
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o755)
        kept = place / "cache" / "tests"
        kept.mkdir(parents=True)
        shutil.copy(root_tarball(), kept)
        for path in (kept, kept / "settings-bookworm.lock"):
            path.touch()
            path.chmod(0o777)
        done = as_builder(
            place / "home",
            [*argv, f"--basetemp={place}/home/t"],
            env={"IMAGE_PIPELINE_CACHE": str(place / "cache")},
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout
