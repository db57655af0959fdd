"""Have the guest run /etc/rc.local at boot, whichever init it has, and make its host keys."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pipeline.core.errors import GuestError
from pipeline.guest.access.editor import Editor
from pipeline.guest.access.paths import base, join

Init = Literal["systemd", "upstart", "sysv", "unknown"]

_BEGIN, _END = "# >>> uec-rootfs", "# <<< uec-rootfs"
_SHELL = re.compile(r"#!\s*(?:/usr)?/bin/(?:env\s+)?(?:ba|da|a|k)?sh\b\s*(.*)")
_UNITS = ("/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")
_GENERATORS = ("/usr/lib/systemd/system-generators", "/lib/systemd/system-generators")
_RUNLEVELS = ("2", "3", "4", "5")
_PREVIOUS = ".before-uec-rootfs"


def install_key_script(editor: Editor, templates: Path, user: str) -> str:
    """Put the key script into rc.local, hooked; the guest path of rc.local."""
    path = rc_local_path(editor)
    script = key_script((templates / "rc.local").read_text(), user, path)
    old = editor.text(path)
    if old and not is_shell(old):
        editor.write(path + _PREVIOUS, old, 0o755)
        old = f'#!/bin/sh\n{path}{_PREVIOUS} "$@"\n'
    editor.write(path, merged(script, old), 0o755)
    if path != "/etc/rc.local" and not editor.guest.exists("/etc/rc.local"):
        editor.link("rc.d/rc.local", "/etc/rc.local")
    _hook(editor, templates, path)
    return path


def rc_local_path(editor: Editor) -> str:
    """Where rc.local is or belongs: behind /etc/rc.local's link, in rc.d on Red Hat's systems."""
    if editor.guest.stat("/etc/rc.local") is None and editor.is_directory("/etc/rc.d"):
        return editor.place("/etc/rc.d/rc.local")
    return editor.place("/etc/rc.local")


def key_script(template: str, user: str, path: str) -> str:
    """The template with its settings: exactly one line each, so that a change cannot be missed."""
    for name, value in (("key_user", user), ("script", path)):
        template, count = re.subn(
            rf"^{name}=.*$", f"{name}={value}".replace("\\", r"\\"), template, flags=re.M
        )
        if count != 1:
            raise GuestError("fill in", "templates/rc.local", why=f"{count} lines set {name}")
    return template


def is_shell(text: str) -> bool:
    """Whether a script is for a Bourne shell: by its first line, or for want of one."""
    return not text.startswith("#!") or _SHELL.match(text) is not None


def merged(script: str, old: str) -> str:
    """Our script, then what the guest's own rc.local did, whatever `exit` ends that.

    Ours comes first, so that no exit of theirs cuts it; an earlier version of ours goes.
    """
    old = re.sub(rf"^{re.escape(_BEGIN)}$.*?^{re.escape(_END)}$\n?", "", old, flags=re.M | re.S)
    first, _, rest = old.partition("\n") if old.startswith("#!") else ("#!/bin/sh", "", old)
    if not rest.strip():
        return script
    _, _, body = script.partition("\n")
    shell = _SHELL.match(first)
    options = shell[1].strip() if shell else ""
    # Their shell's options ("-e" on Debian) begin where their lines do.
    lines = [first.removesuffix(options).rstrip(), body.rstrip("\n")]
    lines += [f"set {options}"] if re.fullmatch(r"-[a-z]+", options) else []
    return "\n".join([*lines, rest.strip("\n")]) + "\n"


def find_init(editor: Editor) -> Init:
    """Which init the guest boots."""
    guest = editor.guest
    name = base(guest.resolve("/sbin/init")) if guest.exists("/sbin/init") else ""
    if name == "systemd":
        return "systemd"
    if editor.is_file("/sbin/initctl") or editor.is_file("/etc/init/rc-sysinit.conf"):
        return "upstart"
    if any(editor.is_directory(d) for d in ("/etc/rc.d", "/etc/rc2.d", "/etc/rc3.d")):
        return "sysv"
    return "unknown"


def _hook(editor: Editor, templates: Path, path: str) -> None:
    init = find_init(editor)
    if init == "systemd":
        _hook_systemd(editor, templates, path)
    elif _runs_by_runlevel(editor, path):
        return
    elif init == "upstart" and not editor.is_file("/etc/init/rc.conf"):
        editor.write("/etc/init/rc-local.conf", (templates / "rc-local.conf").read_text())
    elif init in ("upstart", "sysv"):
        _hook_runlevels(editor, templates, path)
    else:
        editor.warnings.append(
            f"nothing is known that starts {path} at boot: the guest's init is neither systemd "
            "nor upstart nor System V"
        )


def _hook_systemd(editor: Editor, templates: Path, path: str) -> None:
    unit = next(
        (f"{d}/rc-local.service" for d in _UNITS if editor.is_file(f"{d}/rc-local.service")), None
    )
    wanted = any(
        base(name) == "rc-local.service"
        for directory in _UNITS
        for target in ("multi-user.target.wants", "basic.target.wants")
        for name in editor.names(f"{directory}/{target}")
    )
    generated = any(
        editor.is_file(f"{directory}/systemd-rc-local-generator") for directory in _GENERATORS
    )
    if unit is not None and (wanted or generated):
        # The unit says which path it starts; it may not be the one that exists.
        started = re.search(r"^ExecStart=[-@:+!]*(\S+)", editor.text(unit), re.M)
        if started and editor.place(started[1]) != path:
            editor.link(path, started[1])
        return
    enable_unit(editor, templates, "rc-local.service", ("multi-user.target",))


def enable_unit(editor: Editor, templates: Path, name: str, targets: tuple[str, ...]) -> None:
    """Install a unit of ours and enable it as `systemctl enable` does."""
    editor.write(f"/etc/systemd/system/{name}", (templates / name).read_text())
    for target in targets:
        editor.link(f"../{name}", f"/etc/systemd/system/{target}.wants/{name}")


def _runlevel_directories(editor: Editor) -> list[str]:
    found = [f"/etc/rc.d/rc{level}.d" for level in _RUNLEVELS]
    found += [f"/etc/rc{level}.d" for level in _RUNLEVELS]
    return [directory for directory in found if editor.is_directory(directory)]


def _runs_by_runlevel(editor: Editor, path: str) -> bool:
    """Whether a start link leads to rc.local, or to an init script named for it."""
    guest = editor.guest
    for directory in _runlevel_directories(editor):
        for name in editor.names(directory):
            entry = join(directory, name)
            if re.fullmatch(r"S\d\d.*local", name) and guest.exists(entry):
                real = guest.resolve(entry)
                if real == path or re.search(r"/rc\.local\b", editor.text(real)):
                    return True
    return False


def _hook_runlevels(editor: Editor, templates: Path, path: str) -> None:
    directories = _runlevel_directories(editor)
    if path.startswith("/etc/rc.d/"):
        for directory in directories:
            editor.link("../rc.local", f"{directory}/S99local")
        return
    editor.write("/etc/init.d/rc.local", (templates / "rc.local.init").read_text(), 0o755)
    for directory in directories:
        editor.link("../init.d/rc.local", f"{directory}/S99rc.local")


def fresh_host_keys(editor: Editor, templates: Path) -> None:
    """Remove the SSH host keys; add what makes new ones where nothing in the guest does.

    The key script is the last resort: it makes missing ones too, but only late in the boot.
    """
    editor.remove_matching("/etc/ssh", r"ssh_host_.*key(?:\.pub)?")
    editor.remove_matching("/etc/dropbear", r"dropbear_.*host_key")
    if find_init(editor) != "systemd" or not editor.is_file("/usr/bin/ssh-keygen"):
        return
    if not _makes_host_keys(editor):
        targets = ("multi-user.target", "ssh.service", "sshd.service")
        enable_unit(editor, templates, "ssh-host-keys.service", targets)


def _makes_host_keys(editor: Editor) -> bool:
    """Red Hat's and SUSE's servers do, by a unit or script of their own; Debian's do since 13."""
    for directory in _UNITS:
        if any(re.match(r"sshd?-?(?:keygen|gen-keys)", n) for n in editor.names(directory)):
            return True
        for name in ("sshd.service", "ssh.service"):
            if re.search(r"key-?gen|gen-keys", editor.text(f"{directory}/{name}")):
                return True
    return any(
        re.search(r"\bdo_rsa1?_keygen\b|\$KEYGEN\b", editor.text(f"/etc/{d}/sshd"))
        for d in ("init.d", "rc.d/init.d")
    )
