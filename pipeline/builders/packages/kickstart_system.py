"""A kickstart's names, services, volumes and scripts, and all that is left out."""

from __future__ import annotations

import re
from typing import Any

from pykickstart import constants

from pipeline.builders.installer.answer_text import Finding
from pipeline.builders.packages.kickstart_words import Words
from pipeline.builders.packages.settings import Script
from pipeline.core.packages import Firewall

_PASSED_OVER = frozenset(
    {"install", "text", "cmdline", "graphical", "zerombr", "clearpart", "ignoredisk", "volgroup"}
    | {"poweroff", "shutdown", "halt", "reboot", "firstboot", "skipx", "eula", "reqpart"}
    | {"autostep", "mediacheck", "logging", "cdrom", "vnc", "unsupported_hardware"}
)
"""Of no meaning where no installer runs and no disk is laid out."""
_TAKEN = frozenset(
    {"url", "repo", "rootpw", "user", "group", "sshkey", "services", "firewall", "selinux"}
    | {"timezone", "lang", "keyboard", "bootloader", "network", "part", "partition", "logvol"}
)
_SECTION = re.compile(r"^%(?!end\b|include\b|ksappend\b|packages\b|post\b)[a-z-]+")
_VARIANT = re.compile(r"([a-z]+) \(([A-Za-z0-9_-]+)\)")
_NETWORK = re.compile(
    r"^[^#]*\b(?:curl|wget|(?:dnf|yum|apt-get|apt|pip3?)\s+(?:-\S+\s+)*install)\b"
)
_SELINUX = {
    constants.SELINUX_DISABLED: "disabled",
    constants.SELINUX_ENFORCING: "enforcing",
    constants.SELINUX_PERMISSIVE: "permissive",
}
_EXT = ("", "ext2", "ext3", "ext4")
_ROOM_MIB = 2048  # of "/" that grows and has no bound


def take_names(words: Words) -> None:
    """Language, keyboard, time zone, host name and the kernel's command line."""
    kickstart = words.real
    for name in ("lang", "keyboard", "timezone", "bootloader"):
        for command in kickstart.named(name)[:-1]:
            words.leave_out(command.line, name, "a later line says otherwise")
    language = kickstart.data("lang", "lang")
    if language:
        locale = language if "." in language or language == "C" else f"{language}.UTF-8"
        words.field(words.line("lang"), "locale", "C.UTF-8" if locale == "C" else locale)
    if kickstart.data("lang", "addsupport"):
        words.leave_out(words.line("lang"), "lang --addsupport", "name the packages of languages")
    layout = _keyboard(words)
    if layout:
        words.field(words.line("keyboard"), "keyboard", layout)
    zone = kickstart.data("timezone", "timezone")
    if zone:
        words.field(words.line("timezone"), "timezone", zone)
    if kickstart.data("timezone", "ntpservers"):
        words.leave_out(words.line("timezone"), "timezone --ntpservers", "put their file in")
    for data in kickstart.data("network", "network") or ():
        if data.hostname:
            words.field(data.lineno, "hostname", data.hostname)
        if data.ip or data.bootProto == "static" or data.nameserver:
            words.leave_out(data.lineno, "network: a fixed address", "an instance asks its cloud")
    words.command_line = (kickstart.data("bootloader", "appendLine") or "").strip()
    for option in ("password", "md5pass"):
        if kickstart.data("bootloader", option):
            words.leave_out(words.line("bootloader"), f"bootloader --{option}")


def _keyboard(words: Words) -> str:
    kickstart = words.real
    console = kickstart.data("keyboard", "vc_keymap") or kickstart.data("keyboard", "_keyboard")
    layouts = kickstart.data("keyboard", "x_layouts") or ()
    match = _VARIANT.fullmatch(layouts[0]) if layouts else None
    graphical = f"{match[1]}-{match[2]}" if match else (layouts[0] if layouts else "")
    chosen = (graphical, console) if words.backend == "apt" else (console, graphical)
    return str(chosen[0] or chosen[1] or kickstart.data("keyboard", "keyboard") or "")


def take_services(words: Words) -> None:
    """Services, firewall and SELinux."""
    kickstart = words.real
    for name in ("enabled", "disabled"):
        services = kickstart.data("services", name)
        if services:
            words.field(words.line("services"), f"services_{name}", tuple(services))
    mode = kickstart.data("selinux", "selinux")
    if mode is not None:
        words.field(words.line("selinux"), "selinux", _SELINUX[mode])
    line = words.line("firewall")
    if not line:
        return
    firewall = kickstart.handler.firewall
    for option in ("trusts", "remove_services", "use_system_defaults"):
        if getattr(firewall, option, None):
            words.leave_out(line, f"firewall: {option.replace('_', ' ')}")
    if getattr(firewall, "use_system_defaults", False):
        return
    ports = []
    for port in firewall.ports:
        number, _, protocol = port.partition(":")
        ports.append(f"{number}/{protocol or 'tcp'}")
    made = words.made(
        line,
        Firewall,
        enabled=firewall.enabled is not False,
        services=tuple(firewall.services),
        ports=tuple(ports),
    )
    if made:
        words.field(line, "firewall", made)


def take_volumes(words: Words) -> None:
    """The size of "/"; other volumes have no place in an image of one file system."""
    kickstart = words.real
    volumes = [
        *(("part", data) for data in kickstart.data("partition", "partitions") or ()),
        *(("logvol", data) for data in kickstart.data("logvol", "lvList") or ()),
    ]
    for what, data in volumes:
        point = data.mountpoint
        if point == "/":
            _take_root(words, what, data)
        elif not point.startswith("pv."):
            where = "its content is in /" if point.startswith("/") else "the image has none"
            words.leave_out(data.lineno, f"{what} {point}", where)


def _take_root(words: Words, what: str, data: Any) -> None:
    size = int(data.size or 0)
    if data.grow:
        size = int(data.maxSizeMB or 0) or max(size, _ROOM_MIB)
    if size:
        words.field(data.lineno, "root_mib", size)
    if data.encrypted:
        words.refuse(data.lineno, f"{what} /: an image's root cannot be encrypted; remove it")
    if getattr(data, "percent", 0):
        words.leave_out(data.lineno, f"{what} / --percent", "no disk says of what")
    words.fstype = data.fstype or ""
    words.label = getattr(data, "label", "") or ""


def take_scripts(words: Words) -> None:
    """The %post scripts, each with its interpreter."""
    for script in words.real.handler.scripts:
        if script.type != constants.KS_SCRIPT_POST:
            continue
        place = words.template.where(script.lineno)
        if not script.inChroot:
            words.refuse(
                script.lineno, "%post --nochroot: nothing but the guest is there; remove the option"
            )
            continue
        if script.logfile:
            words.leave_out(script.lineno, "%post --log", "the build keeps what scripts say")
        if any(_NETWORK.search(line) for line in script.script.splitlines()):
            words.findings.append(
                Finding(
                    script.lineno, "the script seems to ask the network, and there is none while "
                    "it runs: name the packages, or put the files in", fatal=False
                )
            )  # fmt: skip
        text = f"#!{script.interp}\n{script.script}"
        words.scripts.append(
            Script(f"%post of {place}", text.encode(), needed=bool(script.errorOnFail))
        )


def tell_others(words: Words) -> None:
    """Every command and section that was not taken, once each with its line."""
    if words.real.dynamic:
        words.refuse(0, "%include of a file that %pre would write: no %pre runs; name it beside")
    for command in words.real.commands:
        if command.name not in _PASSED_OVER | _TAKEN:
            words.leave_out(command.line, command.name)
    for number, line in enumerate(words.real.lines, 1):
        match = _SECTION.match(line)
        if match:
            words.leave_out(number, match[0], "nothing but %packages and %post is read")
