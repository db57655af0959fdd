"""Have every instance make SSH host keys of its own, and have none in the image.

An image's /etc/machine-id is an empty file. That is what lets systemd make an id whether the root
is first mounted read-only or not, and it is no first boot in the sense of machine-id(5): the
services that the installation enabled stay as they are, where a first boot would apply presets
and may ask questions on the console. The price: what has ConditionFirstBoot=yes, such as Debian's
sshd-keygen.service since 13, is skipped. So only what is seen to run counts as making keys.
"""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.guest.access.editor import Editor
from pipeline.guest.access.paths import shown
from pipeline.guest.customize.systemd_units import Units

OWN_UNIT = "ssh-host-keys.service"
OWN_DROPBEAR_UNIT = "dropbear-host-keys.service"
_SERVERS = ("ssh.service", "sshd.service")
_MAKES_KEYS = re.compile(r"key-?gen|gen-?keys")
_RUNS = ("ExecStartPre", "ExecStart")
_TARGETS = ("multi-user.target", *_SERVERS)
_MAX_STEPS = 200  # units that a server pulls in; a real one has five


def remove_host_keys(editor: Editor) -> None:
    """Remove the keys and certificates of OpenSSH and of dropbear; warn of keys elsewhere.

    Nothing would make those again: a server that is told of them alone could not start.
    """
    editor.remove_matching("/etc/ssh", r"ssh_host_.*key(?:-cert)?(?:\.pub)?")
    editor.remove_matching("/etc/dropbear", r"dropbear_.*host_key")
    files = ["/etc/ssh/sshd_config"]
    files += [f"{files[0]}.d/{n}" for n in editor.names(f"{files[0]}.d") if n.endswith(".conf")]
    for file in files:
        for path in re.findall(r"(?mi)^\s*HostKey[\s=]+\"?(/[^\s\"]+)", editor.text(file)):
            if editor.is_file(path):
                editor.warnings.append(
                    f"every instance has the SSH host key {shown(path)}, which {file} names: have "
                    "the installation leave keys in /etc/ssh, or make this one at each first boot"
                )


def no_first_boot(editor: Editor) -> None:
    """For a guest with systemd: an empty /etc/machine-id where there is none.

    Without one a boot that mounts the root read-only first cannot make an id at all
    (machine-id(5)), and any other is a first boot in the sense told above.
    """
    status = editor.guest.stat("/etc/machine-id")
    link = status is not None and status.kind == "symlink"
    if link and "run/" in editor.guest.read_link("/etc/machine-id"):
        return  # a system whose id is made anew at each boot
    if not editor.guest.exists("/etc/machine-id"):
        editor.write("/etc/machine-id", "", 0o444, follow=False)


def units_needed(editor: Editor) -> list[tuple[str, tuple[str, ...]]]:
    """For a guest with systemd: units of ours that make keys, and what is to pull them in.

    None for a server whose own keys are seen to be made before it starts. Ours is ordered after
    the known ones of others and makes only what is missing, so one too many does no harm.
    """
    units = Units(editor)
    needed: list[tuple[str, tuple[str, ...]]] = []
    if editor.is_file("/usr/bin/ssh-keygen") and not makes_host_keys(editor, units):
        needed.append((OWN_UNIT, _TARGETS))
    if editor.is_file("/usr/bin/dropbearkey") and _dropbear_needs_keys(editor, units):
        needed.append((OWN_DROPBEAR_UNIT, ("multi-user.target", "dropbear.service")))
    return needed


def makes_host_keys(editor: Editor, units: Units) -> bool:
    """Whether OpenSSH's keys are seen to be made, at an instance's first boot, by the guest."""
    present = [name for name in _SERVERS if units.path(name)]
    if not present:
        # The script that systemd's generator makes a service of, or System V starts.
        return any(
            re.search(r"\bdo_rsa1?_keygen\b|\$KEYGEN\b", editor.text(f"/etc/{d}/sshd"))
            for d in ("init.d", "rc.d/init.d")
        )
    return any(_keys_before(units, name) for name in present if not units.masked(name))


def _keys_before(units: Units, server: str) -> bool:
    if _runs_generator(units, server):
        return True
    return any(
        name != OWN_UNIT
        and _runs_generator(units, name)
        and units.ordered(name, server)
        and units.holds_at_first_boot(name)
        for name in _started_with(units, server)
    )


def _started_with(units: Units, server: str) -> list[str]:
    """What starting the server starts, in any number of steps, and enabled units for keys."""
    found = dict.fromkeys(units.pulled_in(server))
    found |= dict.fromkeys(n for n in units.names(r".*key.*\.service") if units.enabled(n))
    waiting = list(found)
    while waiting and len(found) < _MAX_STEPS:
        name = waiting.pop()
        if name.endswith((".service", ".target")) and not units.masked(name):
            news = [n for n in units.pulled_in(name) if n not in found]
            found |= dict.fromkeys(news)
            waiting += news
    return list(found)


def _runs_generator(units: Units, name: str) -> bool:
    if units.masked(name):
        return False
    commands = [line for key in _RUNS for line in units.settings(name, key)]
    return any(_MAKES_KEYS.search(line) for line in commands)


def _dropbear_needs_keys(editor: Editor, units: Units) -> bool:
    """Whether the guest has dropbear as a server that makes no keys: neither -R nor dropbearkey.

    Debian's package makes them when it is installed, and never again.
    """
    if not units.path("dropbear.service") or units.masked("dropbear.service"):
        return False
    commands = [line for key in _RUNS for line in units.settings("dropbear.service", key)]
    commands.append(editor.text("/etc/default/dropbear"))
    return not any(
        re.search(r"dropbearkey|(?:^|[\s\"'=])-[A-Za-z]*R", re.sub(r"(?m)^\s*#.*$", "", text))
        for text in commands
    )


def enable(editor: Editor, templates: Path, name: str, targets: tuple[str, ...]) -> None:
    """Install a unit of ours, in place of a mask of that name, and enable it.

    As `systemctl enable` does: by a link in each target's directory.
    """
    editor.write(f"/etc/systemd/system/{name}", (templates / name).read_text(), follow=False)
    for target in targets:
        editor.link(f"../{name}", f"/etc/systemd/system/{target}.wants/{name}")
