"""Language, time zone, names, services, SELinux and firewall of the guest.

Each function writes files itself and returns the steps that the guest's own programs have to make
afterwards, in isolation. Sources: locale.conf(5), locale.gen(5), localtime(5), vconsole.conf(5),
keyboard(5), systemd.preset(5), systemctl(1), firewall-offline-cmd(1).
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
from dataclasses import dataclass
from typing import Any

from pipeline.builders.packages.inside.places import Fault, Guest

_PRESET = "/etc/systemd/system-preset/00-image.preset"
_UNITS = ("/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")
_SUFFIX = re.compile(r"\.(?:service|socket|timer|target|path|mount)$")
_ZONES = "/usr/share/zoneinfo"
_ALWAYS = frozenset({"UTC", "Etc/UTC", "C", "POSIX", "C.utf8"})
_HOSTS = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"


@dataclass(frozen=True)
class Step:
    """What the guest's programs do. what: a verb phrase after "Cannot". command: for sh(1).

    needed: its failure is the layer's.
    """

    what: str
    command: str
    needed: bool = True


def set_locale(guest: Guest, locale: str, backend: str) -> list[Step]:
    """The system's language; one that the guest has not made yet is made."""
    path = "/etc/default/locale" if backend == "apt" else "/etc/locale.conf"
    guest.set_text(path, f"LANG={locale}\n")
    language, _, rest = locale.partition(".")
    charset, at, modifier = rest.partition("@")
    charset = charset or "UTF-8"
    normal = f"{language}.{charset.lower().replace('-', '')}{at}{modifier}"
    if language in _ALWAYS or guest.at(f"/usr/lib/locale/{normal}").is_dir():
        return []
    source = f"{language}{at}{modifier}"
    if backend == "apt" and guest.find("locale-gen"):
        if not guest.is_file(f"/usr/share/i18n/locales/{source}"):
            raise Fault(f"the guest knows no locale {locale}")
        line = f"{locale} {charset}"
        lines = guest.text("/etc/locale.gen").splitlines()
        if line not in lines:
            guest.set_text("/etc/locale.gen", "".join(f"{each}\n" for each in [*lines, line]))
        return [Step(f"make the locale {locale}", "locale-gen")]
    if guest.find("localedef") and guest.is_file(f"/usr/share/i18n/locales/{source}"):
        # Files of their own: the archive keeps what it was given and grows by every run.
        command = f"localedef --no-archive -i {shlex.quote(source)} -f {shlex.quote(charset)}"
        return [Step(f"make the locale {locale}", f"{command} {shlex.quote(locale)}")]
    if backend == "dnf" and guest.is_file("/usr/lib/locale/locale-archive"):
        return []  # glibc-all-langpacks has them all
    package = "locales" if backend == "apt" else f"glibc-langpack-{language.partition('_')[0]}"
    raise Fault(f"the locale {locale} is not in the guest: add the package {package}")


def set_timezone(guest: Guest, zone: str, backend: str) -> None:
    """The link /etc/localtime, and Debian's own file."""
    path = f"{_ZONES}/{zone}"
    if zone not in _ALWAYS and not guest.is_file(path):
        if not guest.at(_ZONES).is_dir():
            raise Fault(f"the time zone {zone}: the guest knows none, add the package tzdata")
        raise Fault(f"there is no time zone {zone}{_near(zone, _zones(guest))}")
    guest.link("/etc/localtime", f"..{path}")
    if backend == "apt":
        guest.set_text("/etc/timezone", f"{zone}\n")


def _zones(guest: Guest) -> list[str]:
    names = []
    top = str(guest.at(_ZONES))
    for directory, _, files in os.walk(top):
        inner = os.path.relpath(directory, top)
        names += [file if inner == "." else f"{inner}/{file}" for file in files]
    return [name for name in names if not name.startswith(("posix/", "right/"))]


def set_names(guest: Guest, hostname: str, keyboard: str, backend: str) -> None:
    """The machine's name, and the console's keyboard."""
    guest.set_text("/etc/hostname", f"{hostname}\n")
    if not guest.text("/etc/hosts"):
        guest.set_text("/etc/hosts", _HOSTS)
    if not keyboard:
        return
    if backend == "dnf":
        text = guest.text("/etc/vconsole.conf")
        guest.set_text("/etc/vconsole.conf", with_variable(text, "KEYMAP", keyboard))
        return
    layout, _, variant = keyboard.partition("-")
    text = guest.text("/etc/default/keyboard") or 'XKBMODEL="pc105"\nBACKSPACE="guess"\n'
    for name, value in (("XKBLAYOUT", layout), ("XKBVARIANT", variant)):
        text = with_variable(text, name, f'"{value}"')
    guest.set_text("/etc/default/keyboard", text)


def with_variable(text: str, name: str, value: str) -> str:
    """A file of assignments with one of them changed, or added at the end."""
    line = f"{name}={value}"
    changed, count = re.subn(rf"^[ \t]*{name}=.*$", lambda _: line, text, flags=re.M)
    if count:
        return changed
    return f"{text}{'' if not text or text.endswith(chr(10)) else chr(10)}{line}\n"


def set_selinux(guest: Guest, mode: str) -> None:
    """SELinux's mode at boot."""
    path = "/etc/selinux/config"
    if not mode:
        return
    text = guest.text(path)
    if not text:
        if mode == "disabled":
            return
        raise Fault(f"SELinux {mode}: the guest has no {path}: add its policy's package")
    guest.set_text(path, with_variable(text, "SELINUX", mode))


def set_services(guest: Guest, enabled: list[str], disabled: list[str]) -> list[Step]:
    """What is started at boot, by links and by a preset, which a first boot applies.

    A service to be disabled that is not there is none of the boot's.
    """
    steps: list[Step] = []
    faults: list[str] = []
    names, presets = unit_names(guest), []
    for word, services in (("enable", enabled), ("disable", disabled)):
        for service in services:
            name = _known(guest, service.removesuffix(".service"), names)
            if name:
                unit = _unit(name)
                presets.append(f"{word} {unit}\n")
                command = _switch(guest, word, name)
                steps.append(Step(f"{word} the service {service}", command))
            elif word == "enable":
                faults.append(f"there is no service {service}{_near(service, names)}")
    if faults:
        raise Fault("; ".join(faults))
    if presets and guest.find("systemctl"):
        guest.set_text(_PRESET, "".join(presets))
    else:
        guest.remove(_PRESET)
    return steps


def unit_names(guest: Guest) -> set[str]:
    """Names of units, where systemd is, and of init scripts; services' without ".service"."""
    names: set[str] = set()
    for directory in _unit_places(guest):
        names |= {file.name.removesuffix(".service") for file in guest.at(directory).iterdir()}
    scripts = guest.at("/etc/init.d")
    if scripts.is_dir():
        names |= {file.name for file in scripts.iterdir()} - {"README", "functions"}
    return {name for name in names if not name.endswith((".wants", ".requires", ".d"))}


def _unit_places(guest: Guest) -> list[str]:
    if not guest.find("systemctl"):
        return []  # units that packages brought for an init that is not there
    return [directory for directory in _UNITS if guest.at(directory).is_dir()]


def _known(guest: Guest, name: str, names: set[str]) -> str:
    """The name that a unit has itself: systemctl enables nothing by an alias."""
    for directory in _unit_places(guest):
        place = guest.at(f"{directory}/{_unit(name)}")
        if place.is_symlink() and place.readlink().name != "null":
            return place.readlink().name.removesuffix(".service")
    if name in names or re.sub(r"@[^.]+", "@", name) in names:
        return name
    alias = re.compile(rf"^Alias=(?:.*\s)?{re.escape(_unit(name))}(?:\s|$)", re.M)
    for directory in _unit_places(guest):
        for file in sorted(guest.at(directory).iterdir()):
            if file.is_file() and alias.search(guest.text(f"{directory}/{file.name}")):
                return file.name.removesuffix(".service")
    return ""


def _unit(name: str) -> str:
    return name if _SUFFIX.search(name) else f"{name}.service"


def _switch(guest: Guest, word: str, name: str) -> str:
    quoted = shlex.quote(name)
    if guest.find("systemctl"):
        command = f"SYSTEMD_OFFLINE=1 systemctl --no-reload {word} -- {shlex.quote(_unit(name))}"
        masked = guest.at(f"{_UNITS[0]}/{_unit(name)}")
        if word == "enable" and masked.is_symlink() and masked.readlink().name == "null":
            guest.remove(f"{_UNITS[0]}/{_unit(name)}")
        return command
    if guest.find("update-rc.d"):
        first = f"update-rc.d {quoted} defaults && " if word == "enable" else ""
        return f"{first}update-rc.d {quoted} {word}"
    if guest.find("chkconfig"):
        return f"chkconfig {quoted} {'on' if word == 'enable' else 'off'}"
    raise Fault(f"nothing in the guest can {word} the service {name}: its core needs an init")


def set_firewall(guest: Guest, firewall: dict[str, Any] | None) -> list[Step]:
    """What firewalld lets in; of another firewall it is told that it is left as it is."""
    if firewall is None:
        return []
    there = bool(guest.find("firewall-offline-cmd"))
    if not firewall["enabled"]:
        units = [unit for unit in ("firewalld", "ufw", "nftables") if unit in unit_names(guest)]
        return [Step(f"switch {unit} off", _switch(guest, "disable", unit)) for unit in units]
    if not there:
        guest.notes.append(
            "The firewall is left as the packages made it: the guest has no firewalld; add its "
            "package to have one"
        )
        return []
    if not guest.is_file("/etc/protocols"):
        raise Fault("firewalld reads /etc/protocols: add its package, netbase or setup")
    words = [f"--service={name}" for name in firewall["services"]]
    words += [f"--port={port.replace('/', ':')}" for port in firewall["ports"]]
    steps = [Step("enable the firewall", _switch(guest, "enable", "firewalld"))]
    if words:
        command = f"firewall-offline-cmd {shlex.join(words)} && rm -f /etc/firewalld/zones/*.old"
        steps.append(Step("set the firewall", command))
    return steps


def _near(word: str, choices: set[str] | list[str]) -> str:
    near = difflib.get_close_matches(word, sorted(choices), n=1)
    return f", did you mean {near[0]}?" if near else ""
