"""Proxies that the build went through: those an installer wrote go, others are told.

A proxy that only the build can reach makes every update in an instance fail.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from pipeline.guest.access.editor import Editor
from pipeline.guest.access.paths import shown
from pipeline.guest.customize.addresses import listed, variables, without_comments

# What debian-installer, curtin (Ubuntu's installer) and cloud-init write their answers to.
_INSTALLERS = re.compile(r"(?:90curtin-aptproxy|90cloud-init-aptproxy|00(?:installer|d-i).*proxy)")
_SNAP = "/etc/systemd/system/snapd.service.d/snap_proxy.conf"
_APT_PROXY = re.compile(r"acquire::[a-z]+::proxy(?:$|::|-?auto-?detect$)", re.I)
_APT_TOKEN = re.compile(
    r"(?P<comment>(?://|\#(?!clear|include))[^\n]*|/\*.*?\*/)|(?P<quoted>\"[^\"]*\")"
    r"|(?P<mark>[{};])|(?P<space>\s+)|(?P<word>[^\s{};\"]+)",
    re.S,
)
# "proxy=" of yum, dnf, wget, curl; "[http] proxy" of git; "http_proxy=" of every shell.
_PROXY = re.compile(
    r"^[ \t]*(?:export[ \t]+|setenv[ \t]+|(?:Default)?Environment=[\"']?|set[ \t]+-g?x[ \t]+)*"
    r"[\"']?(?:proxy(?:_\w+)?[ \t]*[=:]|(?:(?:https?|ftp|all|rsync|socks)[-_]proxy"
    r"|https?Proxy)[\"']?[ \t]*[=: \t])"
    r"[ \t]*[\"']?(?!_?none_?\b)[^\s\"'#]",
    re.I | re.M,
)
_FILES = (
    "/etc/dnf/dnf.conf",
    "/etc/yum.conf",
    "/etc/zypp/zypp.conf",
    "/etc/environment",
    "/etc/profile",
    "/etc/bashrc",
    "/etc/bash.bashrc",
    "/etc/wgetrc",
    "/etc/pip.conf",
    "/etc/npmrc",
    "/etc/gitconfig",
    "/etc/rhsm/rhsm.conf",
    "/etc/curlrc",
    "/etc/default/docker",
    "/etc/docker/daemon.json",
    "/etc/systemd/system.conf",
    "/etc/sysconfig/rhn/up2date",
    "/etc/sysconfig/docker",
    "/root/.wgetrc",
    "/root/.curlrc",
    "/root/.gitconfig",
    "/root/.docker/config.json",
    "/root/.bashrc",
    "/root/.profile",
    "/root/.bash_profile",
    "/root/.config/pip/pip.conf",
)
_DIRECTORIES = {
    "/etc/yum.repos.d": r".*\.repo",
    "/etc/zypp/repos.d": r".*\.repo",
    "/etc/dnf/dnf.conf.d": r".*\.conf",
    "/etc/dnf/libdnf5.conf.d": r".*\.conf",
    "/etc/profile.d": r".*\.(?:c?sh|fish)",
    "/etc/environment.d": r".*\.conf",
    "/etc/systemd/system.conf.d": r".*\.conf",
    "/etc/systemd/system/docker.service.d": r".*\.conf",
    "/etc/systemd/system/containerd.service.d": r".*\.conf",
    "/etc/systemd/system/snapd.service.d": r".*\.conf",
}
_RHSM = re.compile(r"^[ \t]*proxy_hostname[ \t]*=[ \t]*\S", re.M)
# The installation's own media, and hosts that only a build's virtual network has.
_MEDIUM = re.compile(
    r"^[ \t]*(?:deb(?:-src)?[ \t]+(?:\[[^\]]*\][ \t]+)?cdrom:|URIs:[ \t]*cdrom:"
    r"|baseurl[ \t]*=[ \t]*(?:cd|dvd|hd|iso|cdrom):)"
    r"|^[^#\n]*://(?:[^\s/@]*@)?(?:10\.0\.2\.2|192\.168\.122\.1|127\.0\.0\.1|localhost)[:/]",
    re.M | re.I,
)
_SOURCES = ("/etc/apt/sources.list.d", "/etc/yum.repos.d", "/etc/zypp/repos.d")
_URL_PROXY = re.compile(r"^[ \t]*baseurl[ \t]*=.*[?&]proxy=", re.M | re.I)


def remove_proxies(editor: Editor) -> None:
    """Edit apt's files that an installer wrote; warn of every other proxy by its file's name."""
    warned = []
    directory = "/etc/apt/apt.conf.d"
    paths = ["/etc/apt/apt.conf", *(f"{directory}/{name}" for name in editor.names(directory))]
    for path in paths:
        text = editor.small_text(path)
        less = apt_without_proxies(text)
        if less == text:
            continue
        name = path.rpartition("/")[2]
        if name != "apt.conf" and not _INSTALLERS.fullmatch(name):
            warned.append(path)
        elif without_apt_comments(less).strip():
            editor.write(path, less)
        else:
            editor.remove(path)
    editor.remove(_SNAP)
    warned += [path for path in _places(editor) if _has_proxy(editor, path)]
    if (
        variables(editor.small_text("/etc/sysconfig/proxy")).get("PROXY_ENABLED", "").lower()
        == "yes"
    ):
        warned.append("/etc/sysconfig/proxy")
    if warned:
        editor.warnings.append(
            f"{shown(listed(warned))} names a proxy: every instance goes through it; take it out "
            "in the installed system unless instances reach it"
        )
    sources = ["/etc/apt/sources.list"]
    sources += [f"{directory}/{n}" for directory in _SOURCES for n in editor.names(directory)]
    sources = [p for p in sources if _MEDIUM.search(without_comments(editor.small_text(p)))]
    if sources:
        editor.warnings.append(
            f"{shown(listed(sources))} has packages come from the installation's own medium or "
            "host, which no instance has: name a repository in the installed system"
        )


def _places(editor: Editor) -> Iterator[str]:
    yield from _FILES
    for directory, pattern in _DIRECTORIES.items():
        for name in editor.names(directory):
            if re.fullmatch(pattern, name):
                yield f"{directory}/{name}"


def _has_proxy(editor: Editor, path: str) -> bool:
    text = without_comments(editor.small_text(path))
    if path == "/etc/rhsm/rhsm.conf":
        return _RHSM.search(text) is not None
    return _PROXY.search(text) is not None or _URL_PROXY.search(text) is not None


def without_apt_comments(text: str) -> str:
    """apt.conf without comments and without blocks that hold nothing."""
    text = "".join(m[0] for m in _APT_TOKEN.finditer(text) if m["comment"] is None)
    while (less := re.sub(r"[^\s{};]+\s*\{[\s;]*\}\s*;?", "", text)) != text:
        text = less
    return re.sub(r"[\s;]+", " ", text)


def apt_without_proxies(text: str) -> str:
    """apt.conf(5) without the settings of proxies, in any of its spellings."""
    kept: list[str] = []
    scopes: list[str] = []  # names of the open blocks
    begin, name = 0, ""  # of the statement at hand: where in `kept`, and its name
    for match in _APT_TOKEN.finditer(text):
        kept.append(match[0])
        if match["word"] and not name:
            begin, name = len(kept) - 1, match[0]
        if match["mark"] is None:
            continue
        if match[0] == "{":
            scopes.append(name)
        else:
            whole = "::".join([*filter(None, scopes), name] if name else [])
            if match[0] == ";" and _APT_PROXY.match(whole):
                del kept[begin:]
            if match[0] == "}" and scopes:
                scopes.pop()
        name = ""
    return "".join(kept)
