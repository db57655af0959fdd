"""The installed machine's name: found wherever a guest keeps it, and gone from all of these."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pipeline.guest.access.editor import Editor
from pipeline.guest.access.paths import shown
from pipeline.guest.customize.addresses import listed, variables

_HOSTNAME = "localhost"  # a name that DHCP clients know they may replace
_GENERIC = re.compile(r"localhost\d?(?:\.localdomain\d?)?|\(none\)|localdomain", re.I)
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?\.?")
_PROFILES = "/etc/sysconfig/networking/profiles"
_ASSIGNED = ("/etc/sysconfig/network", "/etc/conf.d/hostname", "/etc/rc.conf", "/etc/machine-info")
_VARIABLES = re.compile(r"(?:PRETTY_|DHCP_)?HOSTNAME|hostname")
_SCRIPTS = "/etc/sysconfig/network-scripts"
_DHCLIENT = ("/etc/dhcp/dhclient.conf", "/etc/dhclient.conf")
_SUSE_SENT = re.compile(r"^(DHCLIENT6?_HOSTNAME_OPTION=)[\"']?(?!AUTO\b)\w[^\n]*$", re.M)
_SENT = re.compile(r"^\s*send\s+host-name\s*=?\s*\"([^\"]*)\"", re.M)
# Files that programs read names from: told, not edited, where the name is still in them.
_MENTIONS = (
    "/etc/ssmtp/ssmtp.conf",
    "/etc/msmtprc",
    "/etc/mail/sendmail.mc",
    "/etc/aliases",
    "/etc/motd",
    "/etc/issue",
    "/etc/issue.net",
    "/etc/salt/minion",
    "/etc/puppet/puppet.conf",
    "/etc/puppetlabs/puppet/puppet.conf",
    "/etc/chef/client.rb",
    "/etc/zabbix/zabbix_agentd.conf",
    "/etc/munin/munin-node.conf",
    "/etc/nagios/nrpe.cfg",
    "/etc/ssh/ssh_known_hosts",
    "/etc/krb5.conf",
    "/etc/samba/smb.conf",
    "/etc/avahi/avahi-daemon.conf",
)


class _Names:
    """Names that one machine was known by."""

    def __init__(self, names: Iterable[str]) -> None:
        self.full = {name.lower().rstrip(".") for name in names}
        self.short = {name.partition(".")[0] for name in self.full}
        # Where no domain is known, the name in any domain is the machine's.
        self._bare = {name for name in self.full if "." not in name}

    def __contains__(self, name: str) -> bool:
        name = name.lower().rstrip(".")
        return name in self.full | self.short or name.partition(".")[0] in self._bare

    def __bool__(self) -> bool:
        return bool(self.full)


def remove_host_name(editor: Editor) -> None:
    """Give the guest the name localhost and take the old one out of what repeats it.

    Before the network's files go: some of them know the name too.
    """
    found = _found(editor)
    names = _Names(found)
    if editor.is_file("/etc/hostname"):
        editor.write("/etc/hostname", f"{_HOSTNAME}\n")
    for path in _ASSIGNED:
        editor.update(path, _unassigned)
    editor.update("/etc/sysconfig/network/dhcp", lambda text: _SUSE_SENT.sub(r'\1"AUTO"', text))
    # SUSE's file.
    if editor.is_file("/etc/HOSTNAME") and editor.guest.resolve("/etc/HOSTNAME") != "/etc/hostname":
        editor.write("/etc/HOSTNAME", f"{_HOSTNAME}\n")
    editor.update("/etc/nodename", lambda t: f"{_HOSTNAME}\n" if _real_name(t) else t)
    editor.update("/etc/hosts", lambda text: hosts_without(text, names.full))
    editor.update("/etc/mailname", lambda t: f"{_HOSTNAME}\n" if t.strip() in names else t)
    editor.update("/etc/postfix/main.cf", lambda text: postfix_without(text, names.full))
    editor.update("/etc/exim4/update-exim4.conf.conf", lambda t: exim_without(t, names.full))
    for path in ("/etc/mail/local-host-names", "/etc/mail/relay-domains"):
        editor.update(path, lambda text: _lines_without(text, names))
    _warn_of_mentions(editor, names)


def _found(editor: Editor) -> list[str]:
    """Every name that the guest itself calls its own."""
    texts = [editor.text(path) for path in ("/etc/hostname", "/etc/HOSTNAME", "/etc/nodename")]
    found = [_real_name(text) for text in texts]
    paths = [*_ASSIGNED]
    paths += [f"{_PROFILES}/{profile}/network" for profile in editor.names(_PROFILES)]
    paths += [f"{_SCRIPTS}/{name}" for name in editor.names(_SCRIPTS) if name.startswith("ifcfg-")]
    for path in paths:
        values = variables(editor.text(path))
        found += [_real_name(value) for key, value in values.items() if _VARIABLES.fullmatch(key)]
    # Debian's line for a machine without a fixed address.
    for line in editor.text("/etc/hosts").splitlines():
        address, *names = line.partition("#")[0].split() or [""]
        found += [_real_name(name) for name in names if address == "127.0.1.1"]
    for path in _DHCLIENT:
        found += [_real_name(match[1]) for match in _SENT.finditer(editor.text(path))]
    return [name for name in dict.fromkeys(found) if name]


def _real_name(text: str) -> str:
    """The name in a file's first line that is no comment; "" for none or one of no machine."""
    for line in text.splitlines():
        if (word := line.strip()) and not word.startswith("#"):
            return word if _NAME.fullmatch(word) and not _GENERIC.fullmatch(word) else ""
    return ""


def _unassigned(text: str) -> str:
    text = re.sub(
        r"^([ \t]*(?:export[ \t]+)?HOSTNAME[ \t]*=)[^\n]*$",
        rf"\1{_HOSTNAME}.localdomain",
        text,
        flags=re.M,
    )
    text = re.sub(r"^([ \t]*hostname=).*$", rf'\1"{_HOSTNAME}"', text, flags=re.M)
    return re.sub(r"^[ \t]*PRETTY_HOSTNAME=.*\n?", "", text, flags=re.M)


def hosts_without(text: str, names: str | Iterable[str]) -> str:
    """A hosts file without the installed machine's own names; the standard lines stay."""
    own = _Names([names] if isinstance(names, str) else names)
    kept = []
    for line in text.splitlines():
        address, *known = line.split("#")[0].split() or [""]
        mine = any(name in own for name in known)
        if address == "127.0.1.1" or (mine and not any("localhost" in name for name in known)):
            continue
        if mine:
            known = [n for n in known if n not in own and n.split(".")[0].lower() not in own.short]
            line = f"{address}\t{' '.join(known)}"  # noqa: PLW2901
        kept.append(line)
    return "".join(f"{line}\n" for line in kept)


_POSTFIX = re.compile(
    r"^([ \t]*(?:myhostname|mydomain|mydestination|myorigin)[ \t]*=)((?:[^\n]|\n[ \t])*)", re.M
)
_EXIM = re.compile(r"^(dc_(?:other_hostnames|readhost|visiblename)=)[\"']?([^\n\"']*)[\"']?", re.M)


def postfix_without(text: str, names: Iterable[str]) -> str:
    """main.cf without the names; a setting of nothing else goes, and postfix has its default."""
    own = _Names(names)

    def less(match: re.Match[str]) -> str:
        words = match[2].replace(",", " ").split()
        kept = [word for word in words if word not in own]
        if kept == words:
            return match[0]
        return f"{match[1]} {', '.join(kept)}" if kept else f"# {match[1].strip()}"

    return _POSTFIX.sub(less, text)


def exim_without(text: str, names: Iterable[str]) -> str:
    """update-exim4.conf.conf without the names."""
    own = _Names(names)

    def less(match: re.Match[str]) -> str:
        words = re.split(r"[\s:;]+", match[2])
        kept = [word for word in words if word not in own]
        return match[0] if kept == words else f"{match[1]}'{':'.join(kept)}'"

    return _EXIM.sub(less, text)


def _lines_without(text: str, names: _Names) -> str:
    return "".join(line for line in text.splitlines(keepends=True) if line.strip() not in names)


def _warn_of_mentions(editor: Editor, names: _Names) -> None:
    if not names:
        return
    words = "|".join(re.escape(name) for name in sorted(names.full | names.short, key=len)[::-1])
    pattern = re.compile(rf"(?<![\w.-])(?:{words})(?![\w-])", re.I)
    found = [path for path in _MENTIONS if pattern.search(editor.small_text(path))]
    if found:
        editor.warnings.append(
            f"{shown(listed(found))} still has the installed machine's name, "
            f"{shown(listed(sorted(names.full)))}: every instance will use it"
        )
