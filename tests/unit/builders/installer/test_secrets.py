"""Secrets in answer files: refused in clear text, hidden where they come from the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.builders.installer.answers import Answers, render
from pipeline.builders.installer.passwords import is_hash, is_hash_or_lock
from pipeline.core.environment import FromEnvironment
from pipeline.core.errors import InputError
from tests.fixtures.answer_files import HASH, NONCE, faults, recipe, rendered

BASE = "zerombr\nclearpart --all --initlabel\npart / --size=2000\npoweroff\n"
POWER = "d-i debian-installer/exit/poweroff boolean true\nd-i partman-auto/method string regular\n"
ENVIRONMENT = {"PW": "s3cret-word"}
LOCKS = ["*", "!", "!!", "locked", "nope", "nothing", "thereisnopasswordanditslocked", "*LK*", "x"]


def secret(tmp_path: Path, text: str, **fields: object) -> Answers:
    """Rendered with {{pw}} from the environment."""
    variables = {"pw": FromEnvironment(environment="PW")}
    box = recipe(tmp_path, text, variables=variables, **fields)
    return render(box, nonce=NONCE, overrides={}, environment=ENVIRONMENT)


@pytest.mark.parametrize(
    "entry",
    [
        *(HASH, "$1$ab$cdefghijklmnopqrstuv01", "$y$j9T$abc$def", "$2b$12$abcdefghijklmnopqrstuv"),
        *("ab01FAX.bQRSU", "_J9..rasmBYk8r9AiWNc"),
    ],
)
def test_forms_of_hashes(entry: str) -> None:
    assert is_hash(entry)
    assert is_hash_or_lock(entry)


@pytest.mark.parametrize("entry", ["", "hunter2", "pass word", "$6$", "Tr0ub4dor&3"])
def test_what_is_neither_hash_nor_lock(entry: str) -> None:
    assert not is_hash_or_lock(entry)


@pytest.mark.parametrize("word", LOCKS)
@pytest.mark.parametrize("release", ["F15", "RHEL6", "RHEL9", "F43"])
def test_usual_ways_to_lock_root(word: str, release: str, tmp_path: Path) -> None:
    for line in (f"rootpw --iscrypted {word}", f"rootpw --lock --iscrypted {word}"):
        assert line in rendered(tmp_path, f"{line}\n{BASE}", release=release).text


def test_a_lock_needs_no_hash(tmp_path: Path) -> None:
    lines = (
        "rootpw --lock --iscrypted anything1\nuser --name=ann --lock --iscrypted --password=no1\n"
    )
    assert rendered(tmp_path, lines + BASE, release="RHEL9").warnings == ()
    assert rendered(tmp_path, f"rootpw --lock\n{BASE}", release="RHEL9").warnings == ()


def test_a_lock_where_the_release_wants_a_word(tmp_path: Path) -> None:
    assert "write rootpw --lock --iscrypted *" in faults(tmp_path, f"rootpw --lock\n{BASE}")


def test_an_empty_password(tmp_path: Path) -> None:
    said = faults(tmp_path, f'rootpw --iscrypted ""\n{BASE}', release="RHEL9")
    assert "to lock root write rootpw --lock" in said


def test_every_rootpw_counts(tmp_path: Path) -> None:
    said = faults(tmp_path, f"rootpw --plaintext hunter2\nrootpw --lock\n{BASE}", release="RHEL9")
    assert "a.ks line 1: rootpw: a password in clear text" in said
    assert "1 fault:" in said


def test_a_private_key_in_a_script(tmp_path: Path) -> None:
    key = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk\n-----END OPENSSH PRIVATE KEY-----"
    text = f"rootpw --lock\n{BASE}%post\ncat >/root/key <<X\n{key}\nX\necho done\n%end\n"
    answers = rendered(tmp_path, text, release="RHEL9")
    assert key in answers.text
    assert "b3BlbnNzaC1rZXk" not in answers.saved
    assert "X\necho done\n" in answers.saved
    assert "a.ks line 8: " in answers.warnings[0]


CLEAR = [
    ("rootpw --plaintext hunter2", "rootpw"),
    ("user --name=ann --plaintext --password=hunter2", "user ann"),
    ("user --name=ann --iscrypted --password=hunter2", "user ann"),
    ("sshpw --username=root hunter2 --plaintext", "sshpw root"),
    ("autopart --type=lvm --encrypted --passphrase=hunter2", "autopart --passphrase"),
    ("part /home --size=9 --encrypted --passphrase=hunter2", "part --passphrase"),
    ("part /home --size=9 --encrypted --passphrase hunter2", "part --passphrase"),
    ("part /home --size=9 --encrypted --passp=hunter2", "part --passphrase"),
    ("part /home --size=9 --encrypted --passphrase='hunter2'", "part --passphrase"),
    ("logvol /home --vgname=v --name=h --size=9 --encrypted --passphrase=hunter2", "logvol"),
    ("raid /home --device=md0 --level=0 --encrypted --passphrase=hunter2 raid.1 raid.2", "raid"),
    ("vnc --password=hunter2", "vnc --password"),
    ("realm join --one-time-password=hunter2 example.com", "realm --one-time-password"),
    ("rhsm --organization=1 --activation-key=hunter2", "rhsm --activation-key"),
    ("rhsm --organization=1 --activation-key={{pw}} --proxy=ann:hunter2@proxy:80", "rhsm --proxy"),
    ("bootloader --location=mbr --password=hunter2", "bootloader --password"),
    ("bootloader --location=mbr --iscrypted --password=hunter2", "bootloader --password"),
    ("bootloader --location=mbr --iscrypted --password=clear", "bootloader --password"),
    ("network --device=wlan0 --essid=x --wpakey=hunter2", "network --wpakey"),
    ("network --device=wlan0 --essid=x --wepkey=hunter2", "network --wepkey"),
    ("url --url=https://ann:hunter2@mirror/os", "url: a password in a URL"),
    (
        "url --url=http://mirror/os --proxy=http://ann:hunter2@proxy:3128",
        "url: a password in a URL",
    ),
    ("repo --name=r --baseurl=ftp://ann:hunter2@mirror/r", "repo: a password in a URL"),
    ("repo --name=r --baseurl=http://m/r --proxy=http://ann:hunter2@p:1", "repo: a password"),
    ("liveimg --url=http://ann:hunter2@mirror/i", "liveimg: a password in a URL"),
    ("nfs --server=s --dir=/d --opts=username=ann,password=hunter2", "nfs --opts"),
    ("part /mnt --size=9 --fsoptions=password=hunter2", "part --fsoptions"),
    ("iscsi --ipaddr=192.0.2.1 --user=ann --password=hunter2", "iscsi --password"),
]


@pytest.mark.parametrize(("line", "said"), CLEAR)
def test_commands_with_a_secret_in_clear_text(line: str, said: str, tmp_path: Path) -> None:
    variables: dict[str, object] = {}
    if "{{pw}}" in line:
        variables["pw"] = "x"
    whole = faults(tmp_path, f"{BASE}{line}\n", release="RHEL9", variables=variables)
    assert f"a.ks line 5: {said}" in whole
    assert 'environment = "NAME"' in whole or "--iscrypted" in whole
    assert "hunter2" not in whole


@pytest.mark.parametrize(
    ("line", "release"),
    [
        ("user --name=ann --plaintext --password={{pw}}", "RHEL9"),
        ("sshpw --username=root {{pw}} --plaintext", "RHEL9"),
        ("autopart --type=lvm\nnetwork --device=wlan0 --essid=x --wpakey={{pw}}", "F32"),
        ("rhsm --organization=1 --activation-key={{pw}}", "RHEL9"),
        ("url --url=https://ann:{{pw}}@mirror/os", "RHEL9"),
        ("vnc --password={{pw}}", "RHEL9"),
        ("bootloader --location=mbr --password={{pw}}", "RHEL9"),
        ("rootpw --iscrypted {{pw}}", "RHEL9"),
    ],
)
def test_secrets_from_the_environment(line: str, release: str, tmp_path: Path) -> None:
    base = BASE.replace("part / --size=2000\n", "") if "autopart" in line else BASE
    answers = secret(tmp_path, f"{base}{line}\n", release=release)
    assert line.replace("{{pw}}", "s3cret-word") in answers.text
    assert "s3cret-word" not in answers.saved + repr(answers)
    assert line.replace("{{pw}}", "(hidden)") in answers.saved


def test_a_secret_written_out_beside_its_variable(tmp_path: Path) -> None:
    text = f"vnc --password={{{{pw}}}}\nrootpw --plaintext s3cret-word\n{BASE}"
    with pytest.raises(Exception, match="clear text") as caught:
        secret(tmp_path, text, release="RHEL9")
    assert "s3cret-word" not in str(caught.value)
    text = f"vnc --password={{{{pw}}}}\n{BASE}%post\necho s3cret-word\n%end\n"
    assert "s3cret-word" not in secret(tmp_path, text, release="RHEL9").saved


@pytest.mark.parametrize("value", ["pass#word", "pass word", "pass\\word", "pa'ss'word", 'pass"'])
def test_values_that_would_not_arrive_whole(value: str, tmp_path: Path) -> None:
    text = "rootpw --plaintext {{pw}}\n" + BASE
    box = recipe(
        tmp_path, text, release="RHEL9", variables={"pw": FromEnvironment(environment="PW")}
    )
    with pytest.raises(InputError, match=r"a\.ks line 1: ") as caught:
        render(box, nonce=NONCE, overrides={}, environment={"PW": value})
    assert value not in str(caught.value)
    if "'" not in value:
        box.answers.write_text(text.replace("{{pw}}", "'{{pw}}'"))
        assert value in render(box, nonce=NONCE, overrides={}, environment={"PW": value}).text


def test_a_plain_variable_is_no_secret(tmp_path: Path) -> None:
    text = f"rootpw --plaintext {{{{pw}}}}\n{BASE}"
    said = faults(tmp_path, text, release="RHEL9", variables={"pw": "hunter2"})
    assert "a password in clear text" in said


@pytest.mark.parametrize(
    "line",
    [
        "bootloader --location=mbr --iscrypted --password=grub.pbkdf2.sha512.10000.AB.CD",
        f"bootloader --location=mbr --iscrypted --password={HASH}",
        f"user --name=ann --iscrypted --password={HASH}",
        "user --name=ann --groups=wheel",
        "sshpw --username=root --iscrypted nope",
        "authselect select minimal",
        "realm join --no-password example.com",
        "url --url=http://mirror@host/os",
        "network --bootproto=dhcp --device=eth0 --activate",
    ],
)
def test_commands_without_a_secret(line: str, tmp_path: Path) -> None:
    text = f"rootpw --lock\n{BASE}{line}\n"
    assert rendered(tmp_path, text, release="RHEL9").warnings == ()


@pytest.mark.parametrize(
    "line",
    [
        "curl -s -u ann:hunter2 http://host/x",
        "curl --user 'ann:hunter2' http://host/x",
        "wget --password=hunter2 http://host/x",
        "git clone https://ann:hunter2@host/x",
        "echo root:hunter2 | chpasswd",
        'echo "hunter2" | passwd --stdin root',
        "subscription-manager register --org=1 --activationkey=hunter2",
    ],
)
def test_scripts_with_a_password_are_warned_of_and_hidden(line: str, tmp_path: Path) -> None:
    text = f"rootpw --lock\n{BASE}%post\n{line}\n%end\n"
    answers = rendered(tmp_path, text, release="RHEL9")
    assert line in answers.text
    assert "hunter2" not in answers.saved + " ".join(answers.warnings)
    assert answers.masked == ("hunter2",)
    (warning,) = answers.warnings
    assert warning.startswith("a.ks line 7: the script seems to have a password")
    preseed = rendered(
        tmp_path,
        f"{POWER}d-i preseed/late_command string {line}\n",
        installer="debian-installer",
        release="",
    )
    assert "hunter2" not in preseed.saved
    assert any("late_command seems to have" in warning for warning in preseed.warnings)


@pytest.mark.parametrize(
    "line",
    [
        "curl -u ann:$WORD http://host/x",
        "echo $WORD | passwd --stdin root",
        "# echo root:hunter2 | chpasswd",
        "curl http://host:8080/a@b",
        "passwd -l root",
    ],
)
def test_scripts_without_a_password(line: str, tmp_path: Path) -> None:
    answers = rendered(tmp_path, f"rootpw --lock\n{BASE}%post\n{line}\n%end\n", release="RHEL9")
    assert answers.warnings == ()
    assert line in answers.saved


@pytest.mark.parametrize(
    "line",
    [
        "d-i passwd/root-password password {}",
        "d-i passwd/user-password-again password {}",
        "d-i partman-crypto/passphrase password {}",
        "d-i partman-crypto/passphrase-again password {}",
        "d-i netcfg/wireless_wpa string {}",
        "d-i netcfg/wireless_wep string {}",
        "d-i mirror/http/proxy string http://ann:{}@proxy:3128/",
        "d-i mirror/https/proxy string ann:{}@proxy:3128",
        "d-i apt-setup/local0/repository string http://ann:{}@host/debian stable main",
        "d-i grub-installer/password password {}",
        "d-i grub-installer/password-again password {}",
        "d-i network-console/password password {}",
        "mysql-server mysql-server/root_password password {}",
        "slapd slapd/password1 password {}",
    ],
)
def test_preseeds_with_a_secret(line: str, tmp_path: Path) -> None:
    debian: dict[str, object] = {"installer": "debian-installer", "release": ""}
    said = faults(tmp_path, f"{line.format('hunter2')}\n{POWER}", **debian)
    assert "1 fault: a.ks line 1: " in said
    assert 'environment = "NAME"' in said
    assert "hunter2" not in said
    answers = secret(tmp_path, f"{line.format('{{pw}}')}\n{POWER}", **debian)
    assert "s3cret-word" in answers.text
    assert "s3cret-word" not in answers.saved
    assert rendered(tmp_path, f"{line.format('').replace('ann:@', '')}\n{POWER}", **debian)


@pytest.mark.parametrize("entry", [HASH, "ab01FAX.bQRSU", *LOCKS])
def test_preseeds_with_a_hash(entry: str, tmp_path: Path) -> None:
    text = f"d-i passwd/root-password-crypted password {entry}\n{POWER}"
    assert rendered(tmp_path, text, installer="debian-installer", release="").warnings == ()


@pytest.mark.parametrize(
    "value", ["sesame zwiebel#1", "sesame zwiebel", 'sesame"zwiebel', "sesame'zwiebel x"]
)
@pytest.mark.parametrize(
    "line",
    [
        "rootpw --plaintext {{pw}}",
        "user --name=a --plaintext --password={{pw}}",
        "network --device=wlan0 --wpakey={{pw}}",
        "part swap --size=100 --encrypted --passphrase {{pw}}",
        "timezone {{pw}}",
        "{{pw}}",
        "part /x --size={{pw}}",
    ],
)
def test_no_piece_of_a_value_is_quoted_by_a_complaint(
    line: str, value: str, tmp_path: Path
) -> None:
    variables = {"pw": FromEnvironment(environment="PW")}
    box = recipe(tmp_path, f"{line}\n{BASE}", variables=variables, release="RHEL9")
    with pytest.raises(InputError) as caught:
        render(box, nonce=NONCE, overrides={}, environment={"PW": value})
    said = str(caught.value)
    assert "sesame" not in said and "zwiebel" not in said, said
    assert "a.ks line 1: " in said
