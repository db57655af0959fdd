"""What a recipe may say of a system of packages, and what is refused before anything runs."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.builders.packages.settings import Script, identity
from pipeline.core.errors import InputError
from pipeline.core.packages import PackageSystem
from tests.fixtures.answer_files import HASH

LEAST: dict[str, Any] = {
    "distribution": "debian",
    "release": "bookworm",
    "repositories": ({"name": "main", "urls": ("https://deb.example/",), "keys": ("k.gpg",)},),
}

REPOSITORY = {"name": "r", "urls": ("http://h/",), "keys": ("/k",)}


def system(**fields: object) -> PackageSystem:
    return PackageSystem.model_validate(LEAST | fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"users": ({"name": "joe:x:0:0"},)},
        {"users": ({"name": "joe", "gecos": "a:b"},)},
        {"users": ({"name": "joe", "gecos": "a\nroot2::0:0::/:/bin/sh"},)},
        {"users": ({"name": "joe", "home": "/home/../etc"},)},
        {"users": ({"name": "joe", "shell": "bash"},)},
        {"users": ({"name": "joe", "ssh_keys": ("ssh-rsa A\nssh-rsa B",)},)},
        {"users": ({"name": "root"},)},
        {"users": ({"name": "joe"}, {"name": "joe"})},
        {"users": ({"name": "joe", "uid": 1000}, {"name": "ann", "uid": 1000})},
        {"hostname": "-box"},
        {"hostname": "a b"},
        {"hostname": "box\n"},
        {"hostname": "a" * 65},
        {"timezone": "../../etc/passwd"},
        {"timezone": "Europe/../x"},
        {"locale": "en_US.UTF-8; reboot"},
        {"locale": "en_US.UTF-8\n"},
        {"keyboard": "us$(x)"},
        {"services_enabled": ("--root=/",)},
        {"services_enabled": ("a;b",)},
        {"services_enabled": ("ssh",), "services_disabled": ("ssh.service",)},
        {"firewall": {"ports": ("80",)}},
        {"firewall": {"services": ("--panic-on",)}},
        {"selinux": "off"},
        {"files": ({"path": "etc/motd", "content": ""},)},
        {"files": ({"path": "/etc/../motd", "content": ""},)},
        {"files": ({"path": "/etc//motd", "content": ""},)},
        {"files": ({"path": "//etc/motd", "content": ""},)},
        {"files": ({"path": "/", "content": ""},)},
        {"files": ({"path": "/proc/x", "content": ""},)},
        {"files": ({"path": "/run/x", "content": ""},)},
        {"files": ({"path": "/etc/a\nb", "content": ""},)},
        {"files": ({"path": "/etc/motd"},)},
        {"files": ({"path": "/etc/motd", "content": "", "source": "x"},)},
        {"files": ({"path": "/etc/motd", "content": "", "mode": "0888"},)},
        {"files": ({"path": "/etc/motd", "content": "", "owner": "a:b"},)},
    ],
)
def test_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        system(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"hostname": "box-1.example.org"},
        {"timezone": "America/Argentina/Buenos_Aires"},
        {"timezone": "Etc/GMT+5"},
        {"locale": "ca_ES.UTF-8@valencia"},
        {"locale": "POSIX"},
        {"services_enabled": ("getty@tty1.service", "dbus-org.x", "serial-getty@ttyS0")},
        {"firewall": {"ports": ("6000-6010/udp",), "services": ("ssh", "high-availability")}},
        {"files": ({"path": "/srv/a", "content": "", "mode": "4755", "owner": "1000"},)},
        {"users": ({"name": "joe", "password": HASH}, {"name": "ann", "home": "/srv/ann"})},
    ],
)
def test_accepted(fields: dict[str, object]) -> None:
    assert system(**fields).backend == "apt"


@pytest.mark.parametrize(
    "word", ["hunter2hunter", "Tr0ub4dor&3xx", "abcdefghijklm", "!", "$6$a b$c"]
)
def test_a_clear_password_is_refused_and_not_repeated(word: str) -> None:
    for fields in ({"root_password_hash": word}, {"users": ({"name": "joe", "password": word},)}):
        with pytest.raises(ValidationError) as caught:
            system(**fields)
        said = str(caught.value)
        assert "openssl passwd -6" in said
        assert word == "!" or word not in said


def test_a_hash_comes_from_the_environment() -> None:
    box = system(root_password_hash={"environment": "ROOT_HASH"})
    known = identity(box, environment={"ROOT_HASH": HASH})
    assert HASH not in str(known)
    assert known != identity(box, environment={"ROOT_HASH": HASH[:-1] + "b"})


@pytest.mark.parametrize(
    ("environment", "said"), [({}, "is not set"), ({"ROOT_HASH": "sesame-open"}, "is no crypt(5)")]
)
def test_a_variable_without_a_hash(environment: dict[str, str], said: str) -> None:
    with pytest.raises(InputError) as caught:
        identity(system(root_password_hash={"environment": "ROOT_HASH"}), environment=environment)
    assert said in str(caught.value)
    assert "sesame-open" not in str(caught.value)


def test_the_identity_is_of_all_that_decides(tmp_path: Any) -> None:
    source, script = tmp_path / "motd", tmp_path / "first.sh"
    source.write_text("one")
    script.write_text("true")
    fields: dict[str, Any] = {"files": ({"path": "/etc/motd", "source": source},)}

    def key(**more: object) -> str:
        return str(identity(system(**(fields | more)), environment={}))

    before = key()
    assert key() == before
    source.write_text("two")
    changed = key()
    assert changed != before
    with_script = key(scripts=(script,))
    assert with_script != changed
    script.write_text("false")
    assert key(scripts=(script,)) != with_script
    others: tuple[dict[str, object], ...] = (
        {"users": ({"name": "joe"},)},
        {"root_password_hash": HASH},
        {"root_ssh_keys": ("ssh-ed25519 A",)},
        {"locale": "de_DE.UTF-8"},
        {"timezone": "Europe/Paris"},
        {"hostname": "box"},
        {"keyboard": "de"},
        {"services_enabled": ("ssh",)},
        {"services_disabled": ("ssh",)},
        {"selinux": "permissive"},
        {"firewall": {}},
        {"user_groups": ({"name": "ops"},)},
    )
    for more in others:
        assert key(**more) != changed, more
    assert key(packages=("nano",)) == changed  # the layer of packages has its own key
    again = identity(system(**fields), [Script("x", b"true")], environment={})
    assert str(again) != changed


def test_a_file_that_is_not_there(tmp_path: Any) -> None:
    box = system(files=({"path": "/etc/motd", "source": tmp_path / "none"},))
    with pytest.raises(InputError, match="none: No such file"):
        identity(box, environment={})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"release": "../x"}, "release"),
        ({"release": ""}, "release"),
        ({"release": "bookworm main"}, "release"),
        ({"snapshot": "a/../b"}, "snapshot"),
        ({"proxy": "::::"}, "no proxy"),
        ({"proxy": 'http://h:1"; Acquire::x "y'}, "no proxy"),
        ({"mirrors": ("nonsense",)}, "no URL"),
        ({"mirrors": ("http://h/a b",)}, "no URL"),
        ({"packages": ("",)}, "packages"),
        ({"exclude": ("a\nb",)}, "line break"),
        ({"mirrors": ("http://h/",), "repositories": (REPOSITORY,)}, "mirrors and repositories"),
        ({"repositories": (REPOSITORY | {"suites": ("a\nTrusted: yes",)},)}, "suites"),
    ],
)
def test_words_that_are_none(words: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        PackageSystem.model_validate({"distribution": "debian", "release": "bookworm", **words})


def test_a_refused_proxy_keeps_its_password() -> None:
    with pytest.raises(ValidationError) as caught:
        PackageSystem(distribution="debian", release="1", proxy="http://bob:s3cret@h h:1")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "proxy", ["", "proxy:3128", "http://proxy.example.org:3128/", "http://a:b%40c@[::1]:3128"]
)
def test_words_of_proxies(proxy: str) -> None:
    assert PackageSystem(distribution="debian", release="1", proxy=proxy).proxy == proxy


def test_words_in_urls_are_put_in() -> None:
    url = "https://h/$releasever/${basearch}/{snapshot}"
    words = {"release": "9", "snapshot": "20260101T000000Z"}
    found = PackageSystem.model_validate({"distribution": "rocky", **words}).filled(url)
    assert found == "https://h/9/x86_64/20260101T000000Z"
    found = PackageSystem.model_validate({"distribution": "debian", **words}).filled(url)
    assert found == "https://h/$releasever/${basearch}/20260101T000000Z"
