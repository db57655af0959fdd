#!/usr/bin/env bash
# SUMMARY: firewall-offline-cmd cannot open a TCP port where /etc/protocols is missing, and complains of "esp"; Debian's package does not ask for netbase
# GUESS: "tcp" is known to a firewall without a table of protocols, and a package brings what its main program needs
# SEEN: firewall-offline-cmd --port=8080:tcp ends with an error that names INVALID_PROTOCOL and "esp", a protocol that only a
#   service file that was not asked for mentions; neither the port nor /etc/protocols is named. With netbase it succeeds
# VERSIONS: firewalld 1.3.3-1~deb12u2, netbase 6.4 (Debian 12)
# SOURCE: firewall-offline-cmd(1); Debian policy 7.2 (Depends); protocols(5)
# WHY: images made from packages without Recommends have no netbase, and their firewall cannot be set before first boot
set -eu
fail() { echo "NO LONGER SO: $*" >&2; exit 1; }
T=$(mktemp -d); trap 'rm -rf "$T"' EXIT
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
fetch bookworm "$T/r" firewalld=1.3.3-1~deb12u2 dash coreutils
mkdir -p "$T/r/dev" "$T/r/tmp" "$T/r/etc/firewalld/zones"; : > "$T/r/dev/null"
try() { # what the program says of a port that is opened
    chroot "$T/r" /usr/bin/env PATH=/usr/sbin:/usr/bin LC_ALL=C.UTF-8 firewall-offline-cmd --port=8080:tcp > "$T/said" 2>&1
}
[ ! -e "$T/r/etc/protocols" ] || fail "firewalld brings /etc/protocols"
status=0; try || status=$?
tail -3 "$T/said"; echo "without netbase: status $status"
[ "$status" != 0 ] && grep -q esp "$T/said" || fail "it works without netbase"
! grep -q '/etc/protocols' "$T/said" || fail "it says what is missing"
rm -rf "$T/apt-bookworm"; fetch bookworm "$T/r" netbase=6.4
status=0; try || status=$?
tail -1 "$T/said"; echo "with netbase: status $status"
[ "$status" = 0 ] || fail "it fails with netbase too"
