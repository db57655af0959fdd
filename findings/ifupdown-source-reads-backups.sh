#!/usr/bin/env bash
# SUMMARY: Debian's own "source /etc/network/interfaces.d/*" reads backups and leftovers there; "source-directory" does not
# GUESS: that files in interfaces.d are taken by run-parts' rule of names, as in cron.d or if-up.d and as interfaces(5) says
#   of source-directory: eth0.bak or 50-cloud-init.cfg.dpkg-old is dead text.
# SEEN: with the `source` line (which Debian's installer writes) ifquery lists the interface of eth1.bak, and the iface
#   stanza of eth0.bak is a further one of eth0, whose static address ifquery gives as eth0's. With source-directory and the same files neither is read, and 50-cloud-init.cfg is not either (its dot).
# VERSIONS: ifupdown 0.8.41 (Debian 12)
# SOURCE: interfaces(5), "source" and "source-directory"
# WHY: an image cleaned by the names of live files keeps the build machine's static address in a backup that every instance
#   then configures; and a pipeline that changes one keyword for the other turns files on or off.
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
D=$T/interfaces.d; mkdir "$D"
printf 'auto eth0\niface eth0 inet dhcp\n' > "$D/eth0"
printf 'iface eth0 inet static\n address 192.0.2.9/24\n' > "$D/eth0.bak"
printf 'auto eth1\niface eth1 inet static\n address 192.0.2.10/24\n' > "$D/eth1.bak"
printf 'auto eth2\niface eth2 inet dhcp\n' > "$D/50-cloud-init.cfg"
ask() { inside "$T/root" /sbin/ifquery -i "$T/$1" --state-dir "$T" "${@:2}"; }
echo "source $D/*" > "$T/by-source"
echo "source-directory $D" > "$T/by-directory"

listed=$(ask by-source --list -a | grep -v '^lo$' | sort | tr '\n' ' ')
echo "source lists: $listed"
[ "$listed" = "eth0 eth1 eth2 " ] || fail "source lists $listed"
stanzas=$(ask by-source eth0)
echo "its eth0: $stanzas"
grep -q 'address: 192.0.2.9' <<< "$stanzas" || fail "the backup's address is not eth0's"
listed=$(ask by-directory --list -a | grep -v '^lo$' | sort | tr '\n' ' ')
echo "source-directory lists: $listed"
[ "$listed" = "eth0 " ] || fail "source-directory lists $listed"
