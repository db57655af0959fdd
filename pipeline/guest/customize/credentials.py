"""Keys and passwords that somebody left in the guest, and the histories of who worked there.

Keys stay: a kickstart's `sshkey` or %post may have put them there. They are told by the names of
their files; what is in these appears nowhere. Histories go: no program needs one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from pipeline.guest.access.editor import Editor
from pipeline.guest.access.paths import join, shown
from pipeline.guest.customize.addresses import listed, without_comments

_MAX_HOMES = 1000
_HISTORIES = re.compile(
    r"\.(?:\w+_history(?:-\d+\.tmp)?|histfile|history|lesshst|viminfo|wget-hsts|recently-used(?:\.xbel)?"
    r"|Xauthority|ICEauthority|esd_auth|rnd|zhistory|histdb|netrwhist)"
)
_DEEP_HISTORIES = (
    ".local/share/fish/fish_history",
    ".local/share/recently-used.xbel",
    ".local/state/lesshst",
    ".local/share/zsh/history",
    ".local/share/nano/search_history",
    ".local/state/bash/history",
    ".local/state/zsh/history",
    ".local/state/python_history",
    ".local/state/nvim/shada/main.shada",
    ".config/fish/fish_history",
    ".vim/.netrwhist",
)
_PRIVATE_KEY = re.compile(r"^(?:-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----|PuTTY-User-Key-File-)", re.M)
_KEY_LINE = re.compile(r"^[ \t]*[^#\s]", re.M)
# Files of users that hold credentials, and what shows that one does.
_ANY = re.compile(r"\S")
_TOKEN = re.compile(
    r"(?i)(?:password|passwd|_auth\w*|token|secret\w*|access_key|auth)[\"']?\s*[=:]\s*[\"'{]?[^\s\"']"
)
_URL_PASSWORD = re.compile(r"://[^\s/:@\"']+:[^\s/@\"']+@")
_USER_FILES: dict[str, re.Pattern[str]] = {
    ".netrc": _ANY,
    ".git-credentials": _ANY,
    ".pgpass": _ANY,
    ".my.cnf": _TOKEN,
    ".pypirc": _TOKEN,
    ".npmrc": _TOKEN,
    ".s3cfg": _TOKEN,
    ".boto": _TOKEN,
    ".vault-token": _ANY,
    ".smbcredentials": _ANY,
    ".rhosts": _ANY,
    ".shosts": _ANY,
    ".curlrc": re.compile(r"^\s*-*(?:proxy-)?user\b", re.M),
    ".wgetrc": _TOKEN,
    ".gitconfig": _URL_PASSWORD,
    ".pip/pip.conf": _URL_PASSWORD,
    ".config/pip/pip.conf": _URL_PASSWORD,
    ".aws/credentials": _ANY,
    ".docker/config.json": re.compile(r"\"auth\""),
    ".config/containers/auth.json": re.compile(r"\"auth\""),
    ".kube/config": _ANY,
    ".config/gcloud/credentials.db": _ANY,
    ".config/gcloud/application_default_credentials.json": _ANY,
    ".config/gh/hosts.yml": _ANY,
    ".config/openstack/clouds.yaml": _ANY,
    ".config/rclone/rclone.conf": _ANY,
    ".cargo/credentials": _ANY,
    ".cargo/credentials.toml": _ANY,
    ".gem/credentials": _ANY,
    ".m2/settings.xml": re.compile(r"<password>"),
    ".terraform.d/credentials.tfrc.json": _ANY,
    ".azure/accessTokens.json": _ANY,
    ".gnupg/secring.gpg": _ANY,
}
# Directories of keys: none should hold one that every instance has.
_USER_DIRECTORIES = (".gnupg/private-keys-v1.d",)
# What cloud-init gives its users, whatever a cloud says. "lock_passwd:" is none.
_CLOUD_USER = re.compile(
    r"^[^#\n]*?(?<!\w)(?:(?:hashed_|plain_text_)?passw(?:or)?d[ \t]*:[ \t]*[^\s#]"
    r"|ssh[-_]authorized[-_]keys[ \t]*:)",
    re.M,
)
_SYSTEM_FILES: dict[str, re.Pattern[str]] = {
    "/etc/apt/auth.conf": _KEY_LINE,
    "/etc/cloud/cloud.cfg": _CLOUD_USER,
    "/etc/fstab": re.compile(r"^[^#\n]*[\s,](?:password|pass|secret)=[^\s,]", re.M),
    "/etc/sssd/sssd.conf": re.compile(r"^\s*\w*(?:authtok|password)\s*=\s*\S", re.M),
    "/etc/nslcd.conf": re.compile(r"^\s*bindpw\s+\S", re.M),
    "/etc/ldap.secret": _ANY,
    "/etc/pam_ldap.secret": _ANY,
    "/etc/pip.conf": _URL_PASSWORD,
    "/etc/npmrc": _TOKEN,
    "/etc/gitconfig": _URL_PASSWORD,
    "/etc/openstack/clouds.yaml": _ANY,
    "/etc/boto.cfg": _TOKEN,
    "/etc/mysql/debian.cnf": re.compile(r"^\s*password\s*=\s*\S", re.M),
    "/etc/ipsec.secrets": re.compile(r"^\s*[^#\s].*(?:PSK|RSA|ECDSA|XAUTH|EAP)", re.M),
    "/etc/ppp/chap-secrets": _KEY_LINE,
    "/etc/ppp/pap-secrets": _KEY_LINE,
    "/etc/rndc.key": _ANY,
    "/etc/bind/rndc.key": _ANY,
    "/etc/iscsi/iscsid.conf": re.compile(r"^\s*\S+\.password(?:_in)?\s*=\s*\S", re.M),
    "/etc/environment": _URL_PASSWORD,
    "/etc/apt/sources.list": _URL_PASSWORD,
    "/etc/apt/apt.conf": _URL_PASSWORD,
    "/etc/dnf/dnf.conf": re.compile(
        r"^\s*(?:proxy_)?password\s*=\s*\S|" + _URL_PASSWORD.pattern, re.M
    ),
    "/etc/yum.conf": re.compile(r"^\s*(?:proxy_)?password\s*=\s*\S|" + _URL_PASSWORD.pattern, re.M),
}
_REPO = re.compile(r"^\s*(?:proxy_)?password\s*=\s*\S|" + _URL_PASSWORD.pattern, re.M)
_SYSTEM_DIRECTORIES: dict[str, tuple[str, re.Pattern[str]]] = {
    "/etc/apt/auth.conf.d": (r".*\.conf|[^.]+", _KEY_LINE),
    "/etc/apt/sources.list.d": (r".*", _URL_PASSWORD),
    "/etc/apt/apt.conf.d": (r".*", _URL_PASSWORD),
    "/etc/yum.repos.d": (r".*\.repo", _REPO),
    "/etc/zypp/repos.d": (r".*\.repo", _REPO),
    "/etc/zypp/credentials.d": (r".*", _ANY),
    "/etc/profile.d": (r".*", _URL_PASSWORD),
    "/etc/wireguard": (r".*", re.compile(r"PrivateKey\s*=\s*\S|^[A-Za-z0-9+/]{43}=$", re.M)),
    "/etc/ipsec.d/private": (r".*", _PRIVATE_KEY),
    "/etc/swanctl/private": (r".*", _PRIVATE_KEY),
    "/etc/openvpn": (r".*\.(?:key|conf|ovpn|pem)", _PRIVATE_KEY),
    "/etc/openvpn/client": (r".*", _PRIVATE_KEY),
    "/etc/openvpn/server": (r".*", _PRIVATE_KEY),
    "/etc/ssl/private": (r".*\.(?:key|pem)", _PRIVATE_KEY),
    "/etc/pki/tls/private": (r".*\.(?:key|pem)", _PRIVATE_KEY),
    "/etc/ssh": (r"(?!ssh_host_).*", _PRIVATE_KEY),
    "/etc/cloud/cloud.cfg.d": (r".*\.cfg", _CLOUD_USER),
    "/etc/ceph": (r".*\.keyring", _ANY),
    **dict.fromkeys(
        (
            *("/etc/nginx/ssl", "/etc/nginx/certs", "/etc/apache2/ssl", "/etc/httpd/ssl"),
            *("/etc/dovecot/private", "/etc/postfix/ssl", "/etc/haproxy/certs", "/etc/stunnel"),
        ),
        (r".*\.(?:key|pem)", _PRIVATE_KEY),
    ),
    "/etc/wpa_supplicant": (r".*\.conf", re.compile(r"^\s*(?:psk|password)\s*=\s*\S", re.M)),
    "/var/lib/iwd": (r".*\.(?:psk|8021x)", _ANY),
}
_CERTBOT = "/etc/letsencrypt/live"


def report_credentials(editor: Editor) -> None:
    """Remove the histories of every user, and warn of keys and passwords in files."""
    logins: list[str] = []
    private: list[str] = []
    others: list[str] = []
    known: list[str] = []
    histories: list[str] = []
    for home in _homes(editor):
        names = set(editor.names(home))
        for name in sorted(names):
            if _HISTORIES.fullmatch(name):
                histories.append(join(home, name))
        histories += [join(home, p) for p in _DEEP_HISTORIES if p.partition("/")[0] in names]
        if ".ssh" in names:
            _look_at_ssh(editor, f"{home}/.ssh", logins, private, known)
        others += _user_files(editor, home, names)
    for path in _authorized_elsewhere(editor):
        if _KEY_LINE.search(without_comments(editor.small_text(path))):
            logins.append(path)
    for path, sign in _system_files(editor):
        if sign.search(without_comments(editor.small_text(path))):
            (private if sign is _PRIVATE_KEY else others).append(path)
    # Listing is done: now nothing asks for a directory in which edits are waiting.
    for path in histories:
        if editor.is_file(path):
            editor.remove(path)
    _warn(editor, logins, private, others, known)


def _warn(
    editor: Editor, logins: list[str], private: list[str], others: list[str], known: list[str]
) -> None:
    if logins:
        editor.warnings.append(
            f"{shown(listed(logins))} lets the holder of a key log in to every instance: remove "
            "the key in the installed system unless that is meant"
        )
    if private:
        editor.warnings.append(
            f"{shown(listed(private))} is a private key that every instance will have: remove it "
            "in the installed system, and give instances keys of their own"
        )
    if others:
        editor.warnings.append(
            f"{shown(listed(others))} holds credentials that every instance will have: remove "
            "them in the installed system unless that is meant"
        )
    if known:
        editor.warnings.append(
            f"{shown(listed(known))} names the hosts that the build knew: remove it in the "
            "installed system unless that is meant"
        )


def _homes(editor: Editor) -> list[str]:
    """Home directories: root's, those of passwd, what is below /home, the skeleton of new ones."""
    found = ["/root", "/etc/skel"]
    for line in editor.text("/etc/passwd").splitlines():
        fields = line.split(":")
        if len(fields) == 7 and fields[5].startswith("/"):
            found.append(fields[5].rstrip("/") or "/")
    found += [f"/home/{name}" for name in editor.names("/home")]
    real = [editor.guest.resolve(path) for path in found if editor.is_directory(path)]
    # A system account may have a large directory of programs or devices for its home.
    skipped = ("/dev", "/proc", "/sys", "/bin", "/sbin", "/usr/bin", "/usr/sbin")
    return [path for path in dict.fromkeys(real) if path not in skipped][:_MAX_HOMES]


def _look_at_ssh(
    editor: Editor, directory: str, logins: list[str], private: list[str], known: list[str]
) -> None:
    for name in editor.names(directory):
        path = f"{directory}/{name}"
        text = editor.small_text(path)
        if name in ("authorized_keys", "authorized_keys2"):
            if _KEY_LINE.search(without_comments(text)):
                logins.append(path)
        elif name.startswith("known_hosts"):
            if _ANY.search(text):
                known.append(path)
        elif _PRIVATE_KEY.search(text):
            private.append(path)


def _user_files(editor: Editor, home: str, names: set[str]) -> Iterator[str]:
    for name, sign in _USER_FILES.items():
        if name.partition("/")[0] in names and sign.search(editor.small_text(join(home, name))):
            yield join(home, name)
    for name in _USER_DIRECTORIES:
        if name.partition("/")[0] in names and editor.names(join(home, name)):
            yield join(home, name)


def _authorized_elsewhere(editor: Editor) -> Iterator[str]:
    """Files of authorized keys outside homes: the usual places and those sshd is told of."""
    directories = ["/etc/ssh/authorized_keys.d", "/etc/ssh/authorized_keys", "/etc/ssh/keys"]
    configurations = ["/etc/ssh/sshd_config"]
    configurations += [
        f"/etc/ssh/sshd_config.d/{name}" for name in editor.names("/etc/ssh/sshd_config.d")
    ]
    files = ["/etc/dropbear/authorized_keys"]
    for configuration in configurations:
        for match in re.finditer(
            r"^[ \t]*AuthorizedKeysFile[ \t=]+(.+)$", editor.small_text(configuration), re.M | re.I
        ):
            for word in match[1].replace('"', " ").split():
                if word.startswith("/"):
                    fixed, token, _ = word.partition("%")
                    (directories if token else files).append(
                        fixed.rpartition("/")[0] if token else word
                    )
    for directory in dict.fromkeys(directories):
        for name in editor.names(directory):
            path = join(directory, name)
            if editor.is_directory(path):
                files += [join(path, each) for each in editor.names(path)]
            else:
                files.append(path)
    yield from (path for path in dict.fromkeys(files) if editor.is_file(path))


def _system_files(editor: Editor) -> Iterator[tuple[str, re.Pattern[str]]]:
    yield from _SYSTEM_FILES.items()
    for directory, (pattern, sign) in _SYSTEM_DIRECTORIES.items():
        for name in editor.names(directory):
            path = join(directory, name)
            if re.fullmatch(pattern, name) and path not in _SYSTEM_FILES:
                yield path, sign
    for host in editor.names(_CERTBOT):
        yield f"{_CERTBOT}/{host}/privkey.pem", _PRIVATE_KEY
