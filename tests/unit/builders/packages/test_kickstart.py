"""A kickstart gives a system of packages what it says of one, and tells all the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.builders.packages.kickstart import Taken, merged, read
from pipeline.builders.recipes import load_recipes
from pipeline.core import settings
from pipeline.core.environment import FromEnvironment
from pipeline.core.errors import InputError
from pipeline.core.packages import Firewall, PackageSystem, Repository, User, UserGroup
from tests.fixtures.answer_files import HASH, recipe

SHIPPED = {
    name: one
    for name, one in load_recipes(settings.recipes_file()).items()
    if one.answers.suffix == ".ks"
}
REPOSITORY = {"name": "main", "urls": ("https://mirror.example/os",), "keys": ("key",)}
TABLE: dict[str, Any] = {
    "distribution": "el",
    "release": "9",
    "repositories": (REPOSITORY,),
}


def taken(tmp_path: Path, text: str, distribution: str = "el", **fields: Any) -> Taken:
    environment = fields.pop("environment", {})
    keys = fields.pop("keys", ())
    box = recipe(tmp_path, text, **({"release": "RHEL9"} | fields))
    return read(box, distribution, environment=environment, keys=keys)


def refused(tmp_path: Path, text: str, **fields: Any) -> str:
    with pytest.raises(InputError) as caught:
        taken(tmp_path, text, **fields)
    return str(caught.value)


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_the_shipped_ones_make_a_system(name: str) -> None:
    found = read(SHIPPED[name], "fedora")
    system = PackageSystem.model_validate(merged(TABLE | {"distribution": "fedora"}, found))
    assert "@core" in system.groups
    assert system.root_password_hash == ""
    assert system.locale == "en_US.UTF-8"
    assert "console=ttyS0" in found.command_line
    assert all(" line " in note for note in found.notes), found.notes


def test_what_an_enterprise_kickstart_says() -> None:
    found = read(SHIPPED["rocky9"], "rocky")
    assert found.updates["packages"] == (
        *("dracut-config-generic", "openssh-server", "glibc-langpack-en"),
    )
    assert found.updates["exclude"] == ("dracut-config-rescue",)
    assert found.updates["weak_dependencies"] is False
    assert found.updates["services_enabled"] == ("sshd",)
    assert found.updates["firewall"] == Firewall(services=("ssh",))
    assert found.updates["selinux"] == "enforcing"
    assert found.updates["root_mib"] == 4608
    assert found.fstype == "ext4"


def test_an_old_release_has_the_group_base_by_itself(tmp_path: Path) -> None:
    text = "%packages\n@core\n%end\n"
    assert taken(tmp_path, text, release="F15").updates["groups"] == ("@core", "@base")
    bare = text.replace("%packages", "%packages --nobase")
    assert taken(tmp_path, bare, release="F15").updates["groups"] == ("@core",)
    assert taken(tmp_path, text).updates["groups"] == ("@core",)


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        ("rootpw --lock", "root_password_hash", ""),
        ("rootpw --iscrypted --lock *", "root_password_hash", ""),
        ("rootpw --iscrypted !!", "root_password_hash", ""),
        (f"rootpw --iscrypted {HASH}", "root_password_hash", HASH),
        ("timezone Europe/Paris --utc", "timezone", "Europe/Paris"),
        ("lang de_DE.UTF-8", "locale", "de_DE.UTF-8"),
        ("lang de_DE", "locale", "de_DE.UTF-8"),
        ("lang C", "locale", "C.UTF-8"),
        ("keyboard us", "keyboard", "us"),
        ("keyboard --vckeymap=de-nodeadkeys", "keyboard", "de-nodeadkeys"),
        ("keyboard --xlayouts='de (nodeadkeys)'", "keyboard", "de-nodeadkeys"),
        ("network --bootproto=dhcp --hostname=box.example", "hostname", "box.example"),
        ("selinux --permissive", "selinux", "permissive"),
        ("selinux --disabled", "selinux", "disabled"),
        ("services --enabled=sshd,chronyd", "services_enabled", ("sshd", "chronyd")),
        ("services --disabled=kdump", "services_disabled", ("kdump",)),
        ("firewall --disabled", "firewall", Firewall(enabled=False)),
        (
            "firewall --enabled --ssh --port=80:tcp,6000-6010:udp",
            "firewall",
            Firewall(services=("ssh",), ports=("80/tcp", "6000-6010/udp")),
        ),
        ("group --name=ops --gid=2000", "user_groups", (UserGroup(name="ops", gid=2000),)),
        ("part / --size=3000 --fstype=xfs --label=ROOT", "root_mib", 3000),
        ("part / --size=500 --grow --maxsize=5000", "root_mib", 5000),
        ("part / --size=500 --grow", "root_mib", 2048),
        ("part / --size=5000 --grow", "root_mib", 5000),
        ('sshkey --username=root "ssh-ed25519 AAAA r"', "root_ssh_keys", ("ssh-ed25519 AAAA r",)),
    ],
)
def test_one_command(line: str, field: str, value: object, tmp_path: Path) -> None:
    found = taken(tmp_path, f"{line}\n")
    assert found.updates[field] == value
    assert found.notes == ()


def test_a_user_with_all_that_it_has(tmp_path: Path) -> None:
    text = (
        f'user --name=joe --uid=1005 --groups=wheel,ops(2000) --gecos="Joe X" --iscrypted '
        f"--password={HASH} --shell=/bin/sh --homedir=/srv/joe\n"
        'sshkey --username=joe "ssh-ed25519 AAAA j"\nuser --name=ann\n'
    )
    found = taken(tmp_path, text)
    joe = User(
        name="joe",
        uid=1005,
        groups=("wheel", "ops"),
        gecos="Joe X",
        password=HASH,
        shell="/bin/sh",
        home="/srv/joe",
        ssh_keys=("ssh-ed25519 AAAA j",),
    )
    assert found.updates["users"] == (joe, User(name="ann"))
    assert found.updates["user_groups"] == (UserGroup(name="ops", gid=2000),)


def test_groups_options_and_what_is_left_out_of_packages(tmp_path: Path) -> None:
    text = (
        "%packages --nocore --exclude-weakdeps\n@^minimal-environment\n@c-dev --optional\nbash\n"
        "-foo\n-@games\n%end\n"
    )
    found = taken(tmp_path, text)
    assert found.updates["groups"] == ("@^minimal-environment", "@c-dev")
    assert found.updates["packages"] == ("bash",)
    assert found.updates["exclude"] == ("foo",)
    assert [note.partition(" is left out")[0] for note in found.notes] == [
        "a.ks line 3: an option of @c-dev",
        "a.ks line 6: -@games",
    ]


def test_of_debian_groups_are_tasks_and_it_is_said(tmp_path: Path) -> None:
    found = taken(tmp_path, "%packages\n@ssh-server\nnano\n%end\n", "debian")
    assert found.updates["groups"] == ("ssh-server",)
    assert found.updates["packages"] == ("nano",)
    assert "they are tasks: ssh-server" in found.notes[0]


def test_scripts_keep_their_interpreter_and_whether_they_may_fail(tmp_path: Path) -> None:
    text = (
        "%post --interpreter=/usr/bin/python3 --erroronfail\nprint(1)\n%end\n%post\nfalse\n%end\n"
    )
    first, second = taken(tmp_path, text).scripts
    assert (first.name, first.needed) == ("%post of a.ks line 1", True)
    assert first.content == b"#!/usr/bin/python3\nprint(1)\n"
    assert (second.content, second.needed) == (b"#!/bin/sh\nfalse\n", False)


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("authselect select minimal\n", 1, "authselect"),
        ("part /boot --size=500\n", 1, "part /boot"),
        ("part / --size=900\npart swap --size=64\n", 2, "part swap"),
        ("raid / --device=md0 --level=1 raid.1 raid.2\n", 1, "raid"),
        ("\nautopart\n", 2, "autopart"),
        ("timesource --ntp-server=ntp.example\n", 1, "timesource"),
        ("timezone Etc/UTC --ntpservers=ntp.example\n", 1, "timezone --ntpservers"),
        ("network --bootproto=static --ip=10.0.0.2 --netmask=255.0.0.0\n", 1, "network"),
        ("%pre\ntrue\n%end\n", 1, "%pre"),
        ("text\n%addon com_redhat_kdump --disable\n%end\n", 2, "%addon"),
        ("firewall --enabled --trust=eth1\n", 1, "firewall: trusts"),
        ("url --url=https://mirror.example/os\n", 1, "url"),
        ("repo --name=more --mirrorlist=https://mirror.example/list\n", 1, "repo more"),
        ("%packages --excludedocs\nbash\n%end\n", 1, "%packages --excludedocs"),
        ("module --name=nodejs --stream=18\n", 1, "module"),
    ],
)
def test_what_is_left_out_is_told_once_with_its_line(
    text: str, line: int, what: str, tmp_path: Path
) -> None:
    (note,) = taken(tmp_path, text).notes
    assert note.startswith(f"a.ks line {line}: {what}")
    assert "left out" in note


def test_what_an_installers_disk_has_is_passed_over(tmp_path: Path) -> None:
    text = (
        "text\nzerombr\nclearpart --all --initlabel\nfirstboot --disabled\n"
        "part pv.1 --size=1 --grow\nvolgroup vg pv.1\n"
        "logvol / --vgname=vg --name=root --size=2000\npoweroff\n"
        "bootloader --location=mbr --append='quiet x=1'\n"
    )
    found = taken(tmp_path, text)
    assert found.notes == ()
    assert found.command_line == "quiet x=1"
    assert found.updates["root_mib"] == 2000


def test_url_and_repo_are_repositories_where_there_are_keys(tmp_path: Path) -> None:
    text = (
        "url --url=https://mirror.example/os --proxy=http://proxy.example:3128\n"
        "repo --name=AppStream --baseurl=https://mirror.example/app\n"
    )
    key = Path("/keys/k")
    found = taken(tmp_path, text, keys=(key,))
    assert found.updates["repositories"] == (
        Repository(name="install", urls=("https://mirror.example/os",), keys=(key,)),
        Repository(name="appstream", urls=("https://mirror.example/app",), keys=(key,)),
    )
    assert found.updates["proxy"] == "http://proxy.example:3128"


def test_a_mark_for_the_tree_needs_no_tree(tmp_path: Path) -> None:
    found = taken(tmp_path, "url --url={{tree}}{{proxy_option}}\nlang C\n", keys=(Path("k"),))
    assert "repositories" not in found.updates
    assert found.notes == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lang C\nrootpw secretword\n", "a.ks line 2: rootpw: a password in clear text"),
        ("rootpw --plaintext secretword\n", "rootpw: a password in clear text"),
        ("user --name=joe --password=secretword\n", "user joe: a password in clear text"),
        ("rootpw --iscrypted abcdefghijklm\n", "a.ks line 1: rootpw: the password is no hash"),
        ("user --name=Joe\n", "a.ks line 1: name:"),
        ("user --name=joe\nuser --name=joe\n", "users: "),
        ("timezone ../etc/passwd\n", "a.ks line 1: timezone:"),
        ("network --hostname=-box\n", "a.ks line 1: hostname:"),
        ("services --enabled=a;b\n", "a.ks line 1: services_enabled"),
        ("firewall --enabled --port=imap:tcp\n", "a.ks line 1: ports.0:"),
        ("part / --size=900 --encrypted --passphrase={{p}}\n", "cannot be encrypted"),
        ("%packages\nbash zsh\n%end\n", "a.ks line 2: %packages: 'bash zsh' are two names"),
        ("lang C\n%post --nochroot\ntrue\n%end\n", "a.ks line 2: %post --nochroot"),
        ('sshkey --username=joe "ssh-rsa A"\n', "a.ks line 1: sshkey: no command makes the user"),
        ("%include /tmp/made\n", "%include of a file that %pre would write"),
        ("partt / --size=3\n", "a.ks line 1: Unknown command: partt, did you mean part?"),
    ],
)
def test_faults_have_the_line_of_the_file(text: str, said: str, tmp_path: Path) -> None:
    variables: dict[str, object] = {"p": {"environment": "P"}} if "{{p}}" in text else {}
    found = refused(tmp_path, text, variables=variables, environment={"P": "passphrase"})
    assert said in found
    assert "secretword" not in found


def test_a_line_of_an_included_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "more.ks").write_text("lang C\nnetwork --hostname=-box\n")
    assert "more.ks line 2: hostname" in refused(tmp_path, "%include more.ks\n")


def test_a_hash_from_the_environment_stays_there(tmp_path: Path) -> None:
    text = "rootpw --iscrypted {{pw}}\nuser --name=joe --iscrypted --password={{pw}}\n"
    origin = FromEnvironment(environment="PW")
    found = taken(tmp_path, text, variables={"pw": origin}, environment={"PW": HASH})
    assert found.updates["root_password_hash"] == origin
    assert found.updates["users"][0].password == origin
    assert found.secrets == (HASH,)
    assert HASH not in repr(found)
    assert HASH not in found.saved


@pytest.mark.parametrize("how", ["", "--iscrypted "])
def test_a_word_from_the_environment_is_no_hash(how: str, tmp_path: Path) -> None:
    said = refused(
        tmp_path,
        f"rootpw {how}{{{{pw}}}}\n",
        variables={"pw": FromEnvironment(environment="PW")},
        environment={"PW": "sesame-open"},
    )
    assert "openssl passwd -6" in said
    assert "sesame-open" not in said


def test_a_script_that_asks_the_network_is_warned_of(tmp_path: Path) -> None:
    (note,) = taken(tmp_path, "%post\ndnf -y install nano\n%end\n").notes
    assert note.startswith("a.ks line 1: the script seems to ask the network")


def test_a_recipes_own_words_come_first(tmp_path: Path) -> None:
    text = "lang de_DE.UTF-8\nnetwork --hostname=ks\n%packages\nbash\n%end\n"
    fields = merged(TABLE | {"hostname": "own", "packages": ["nano"]}, taken(tmp_path, text))
    system = PackageSystem.model_validate(fields)
    assert (system.hostname, system.locale) == ("own", "de_DE.UTF-8")
    assert system.packages == ("bash", "glibc-langpack-de", "nano")
