"""The shell scripts that install Debian packages: one with the guest's ids, one in the guest.

The second is run by the guest's own shell in isolation; it says on which step it is by lines that
begin with `MARK`. What it deletes is what differs from one install to the next (found by comparing
two) or speaks of the install itself.

Sources: invoke-rc.d(8) and its policy-rc.d interface, machine-id(5), dpkg(1), the kernel hooks'
interface in Debian's kernel handbook, chapter 8.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

MARK = "#step: "
DEBS = "/run/packages"
"""Where the guest sees the package files, named NUMBER.deb."""

ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LC_ALL": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
    "DEBCONF_NONINTERACTIVE_SEEN": "true",
    "DEBCONF_NOWARNINGS": "yes",
    "SYSTEMD_OFFLINE": "1",
    # Kernels' hooks make no ramdisk; it is made once, when all packages are there.
    "INITRD": "No",
}

_DPKG = "dpkg --log=/dev/null --force-unsafe-io --force-confdef --force-confold --auto-deconfigure"

_LINKS = {"amd64": ("lib32", "lib64", "libx32"), "arm64": ()}

EXTRACT = """\
set -eu
root=$1; links=$2; base=$3; shift 3
export root
# What dpkg does not run on would be written twice; in these folders are most of the files.
unused='--exclude=./usr/share/doc/* --exclude=./usr/share/locale/* --exclude=./usr/share/man/*
 --exclude=./usr/share/info/* --exclude=./usr/share/zoneinfo/* --exclude=./usr/share/lintian/*
 --exclude=./usr/lib/*/gconv/* --exclude=./usr/share/bash-completion/*'
export unused
mkdir -p "$root/var/lib/dpkg" "$root/tmp"
if [ -n "$links" ] && ! dpkg-deb --contents "$base" | grep '^l.* [.]/bin ->' >/dev/null; then
  for name in $links; do
    mkdir -p "$root/usr/$name"
    ln -s "usr/$name" "$root/$name"
  done
fi
# Before all others, which must find its links where it brings them.
dpkg-deb --fsys-tarfile "$base" | tar -x -p --numeric-owner --keep-directory-symlink \\
  --warning=no-timestamp -f - -C "$root"
printf '%s\\0' "$@" | xargs -0 -P2 -n6 sh -fc 'for deb; do
  dpkg-deb --fsys-tarfile "$deb" | tar -x -p --numeric-owner --keep-directory-symlink \\
    $unused --warning=no-timestamp -f - -C "$root" || exit 255
done' sh
: >"$root/var/lib/dpkg/status"
: >"$root/var/lib/dpkg/available"
chmod 1777 "$root/tmp"
"""
"""Arguments: the root; names of links into /usr, none where the system is not merged; the package
base-files; the other packages to begin with. Runs no code of packages.

The links are made where base-files does not bring them, which Debian's does from trixie on; these
are debootstrap's for a release before.
"""

_BEGIN = """\
set -eu
umask 022
step() { printf '%s%s\\n' '#step: ' "$*"; }
cd /
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
  printf '#!/bin/sh\\nexit 101\\n' >$policy
  chmod 755 $policy
  trap 'rm -f $policy' EXIT
fi
before=$(dpkg-query --show --showformat '${Package} ')
"""

_RAMDISK = """\
for image in /boot/vmlinuz-*; do
  version=${image#/boot/vmlinuz-}
  if [ -e "$image" ] && [ ! -e "/boot/initrd.img-$version" ]; then
    for hook in /etc/kernel/postinst.d/initramfs-tools /etc/kernel/postinst.d/dracut; do
      if [ -x $hook ]; then
        step "make the ramdisk of $version"
        env -u INITRD DEB_MAINT_PARAMS=configure $hook "$version" "$image"
      fi
    done
    # Without a ramdisk it made no link to one.
    if [ -e "/boot/initrd.img-$version" ] && command -v linux-update-symlinks >/dev/null; then
      env -u INITRD linux-update-symlinks install "$version" "$image"
    fi
  fi
done
"""

_MARKS = """\
while read -r name architecture; do
  case " $before" in *" $name "*) continue ;; esac
  printf 'Package: %s\\nArchitecture: %s\\nAuto-Installed: 1\\n\\n' "$name" "$architecture"
done >>/var/lib/apt/extended_states <<'END'
"""

_CLEAN = """\
step 'clean up'
rm -f $policy
trap - EXIT
if [ -e /etc/machine-id ]; then : >/etc/machine-id; fi
if [ ! -L /var/lib/dbus/machine-id ]; then rm -f /var/lib/dbus/machine-id; fi
rm -f /etc/ssh/ssh_host_*key /etc/ssh/ssh_host_*key.pub /var/lib/systemd/random-seed
rm -f /etc/passwd- /etc/group- /etc/shadow- /etc/gshadow- /etc/subuid- /etc/subgid- /etc/.pwd.lock
rm -f /var/lib/dpkg/*-old /var/lib/dpkg/lock /var/lib/dpkg/lock-frontend
rm -f /var/lib/dpkg/triggers/Lock /var/cache/debconf/*-old
rm -f /var/cache/ldconfig/aux-cache /var/cache/apt/*.bin
rm -f /var/log/dpkg.log /var/log/alternatives.log /var/log/bootstrap.log
for directory in /var/log/apt /var/lib/apt/lists /var/cache/apt/archives; do
  if [ -d $directory ]; then find $directory -type f -exec rm -f {} +; fi
done
find /var/log -type f -size +0 -exec sh -c 'for log; do : >"$log"; done' sh {} +
rm -f /var/lib/dpkg/available
find /tmp /var/tmp -xdev -mindepth 1 -delete
find /run -xdev -mindepth 1 ! -path /run/lock ! -path '/run/packages*' -delete
"""


def links(architecture: str) -> str:
    """Names of what are links into /usr at the top of a merged system, as debootstrap has them."""
    return " ".join(("bin", "sbin", "lib", *_LINKS[architecture]))


@dataclass(frozen=True)
class Step:
    """One run of dpkg. action: its option, without dashes. words: numbers of package files, or
    names of packages. force: whether dependencies may be missing, as where they are circular."""

    name: str
    action: Literal["install", "unpack", "configure"]
    words: Sequence[int | str]
    force: bool = False


def install(
    steps: Sequence[Step],
    dependencies: Sequence[tuple[str, str]] = (),
    files: Sequence[tuple[str, str]] = (),
) -> str:
    """The script that installs.

    dependencies: names and architectures of packages to be marked as such for apt, unless they
    were there before. files: path and content, written after the packages.
    """
    lines = [_BEGIN]
    for step in steps:
        force = " --force-depends" if step.force else ""
        words = " ".join(f"{DEBS}/{w}.deb" if isinstance(w, int) else w for w in step.words)
        lines.append(f"step {shlex.quote(step.name)}\n")
        lines.append(f"{_DPKG}{force} --{step.action} {words or '--pending'}\n")
    lines.append(_RAMDISK)
    if dependencies:
        rows = "".join(f"{name} {architecture}\n" for name, architecture in dependencies)
        lines.append(f"{_MARKS}{rows}END\n")
    for path, content in files:
        directory = path.rpartition("/")[0]
        lines.append(
            f"mkdir -p {directory}\nprintf %s {shlex.quote(content)} >{path}\nchmod 644 {path}\n"
        )
    lines.append(_CLEAN)
    return "".join(lines)
