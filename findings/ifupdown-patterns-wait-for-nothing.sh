#!/usr/bin/env bash
# SUMMARY: interfaces given by pattern get no network at boot unless their driver is loaded before: ifupdown waits for udev
#   only where a name is written out, and "allow-hotplug /en*=LOGICAL" is refused at the very event it is for
# GUESS: "auto /en*=wired" is the same as "auto ens4" for whatever name there is (interfaces(5), PATTERN MATCHING INTERFACES), as
#   ifupdown-pre.service runs `udevadm settle` before networking.service; and the same pattern after "allow-hotplug" has udev's
#   event bring up what comes later.
# SEEN: ifupdown-pre.service settles only if `ifquery --list --exclude=lo` prints something. For "auto ens4" it prints the name
#   before there is such an interface; for the pattern nothing, so nothing waits and networking.service succeeds with lo alone.
#   udev's helper asks `ifquery --allow hotplug -l ens4`: with the pattern that ends with "unknown interface ens4", while
#   `ifquery --allow hotplug --list` names ens4.
# VERSIONS: ifupdown 0.8.41 (Debian 12); the boot without network was seen with 0.8.45+nmu1+b1, systemd 262.1, dracut 112 (sid)
# SOURCE: interfaces(5); ifupdown-pre.service and /usr/lib/udev/ifupdown-hotplug of the package
# WHY: an image whose interfaces have no known names boots with network as long as its ramdisk loads the card's driver
#   (initramfs-tools with MODULES=most), and without one under dracut; no unit fails, and the console has no word of it.
set -euo pipefail
fail() { echo "NO LONGER SO: $*" >&2; exit 1; }
fetch() { # SUITE ROOT PACKAGE=VERSION...: these and what they depend on, unpacked below ROOT
    local suite=$1 root=$2 mirror a="$T/apt-$1" deb; shift 2
    mirror=$(grep -rhoE 'https?://[^ ]+/debian/?( |$)' /etc/apt/sources.list /etc/apt/sources.list.d 2>/dev/null | sed -n 1p) || true
    mkdir -p "$a"/lists/partial "$a"/cache/archives/partial "$root"/usr/{bin,sbin,lib,lib64}; : > "$a/status"
    for deb in bin sbin lib lib64; do [ -e "$root/$deb" ] || ln -s "usr/$deb" "$root/$deb"; done
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" > "$a/list"
    local apt=(apt-get -qq -o Dir::Etc::SourceList="$a/list" -o Dir::Etc::SourceParts=- -o Dir::State::Lists="$a/lists"
        -o Dir::State::status="$a/status" -o Dir::Cache="$a/cache" -o Acquire::Languages=none -o Acquire::Check-Valid-Until=false
        -o APT::Sandbox::User=root -o Debug::NoLocking=true)
    "${apt[@]}" update
    "${apt[@]}" install --yes --no-install-recommends --download-only "$@" > "$a/log" 2>&1 || { tail -5 "$a/log" >&2; fail "the mirror has no $* in $suite"; }
    for deb in "$a"/cache/archives/*.deb; do dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$root" --keep-directory-symlink; rm "$deb"; done
}
inside() { # ROOT PROGRAM ARGUMENT...
    local root=$1; shift
    "$root/lib64/ld-linux-x86-64.so.2" --library-path "$root/usr/lib/x86_64-linux-gnu" "$root$1" "${@:2}"
}
T=$(mktemp -d); trap 'rm -rf "$T"' EXIT
fetch bookworm "$T/root" ifupdown=0.8.41
cd "$T"
unit=$(find root/ -name ifupdown-pre.service) helper=$(find root/ -name ifupdown-hotplug)
grep -F 'udevadm settle' "$unit"
grep -qF -- '-n "$(ifquery --read-environment --list --exclude=lo)"' "$unit" || fail "ifupdown-pre.service asks something else"
grep -F 'ifquery --allow hotplug -l' "$helper" || fail "udev's helper asks something else"
printf 'auto ens4\niface ens4 inet dhcp\n' > name
printf 'auto /en*=wired\niface wired inet dhcp\n' > pattern
printf 'allow-hotplug ens4\niface ens4 inet dhcp\n' > hotplug-name
printf 'allow-hotplug /en*=wired\niface wired inet dhcp\n' > hotplug-pattern
ask() { inside root /sbin/ifquery -i "$1" --state-dir . "${@:2}" 2>&1 | tr '\n' ' '; }
seen() { # WHAT WORDS WANTED
    echo "$1: '$2'"
    [ "$2" = "$3" ] || fail "$1 is '$2' and not '$3'"
}
alone() { # in a network of its own, where ens4 comes only now
    seen "auto, by name, before the interface is there" "$(ask name --list --exclude=lo)" "ens4 "
    seen "auto, by pattern, before" "$(ask pattern --list --exclude=lo)" ""
    ip tuntap add ens4 mode tap
    seen "auto, by pattern, after" "$(ask pattern --list --exclude=lo)" "ens4 "
    seen "udev's event, by name" "$(ask hotplug-name --allow hotplug -l ens4)" "ens4 "
    seen "all of hotplug, by pattern" "$(ask hotplug-pattern --allow hotplug --list)" "ens4 "
    seen "udev's event, by pattern" "$(ask hotplug-pattern --allow hotplug -l ens4)" "ifquery: unknown interface ens4 "
}
export -f fail inside ask seen alone
unshare --user --map-root-user --net bash -euc alone
