#!/usr/bin/env bash
# SUMMARY: Debian's iscsid does not start without /etc/iscsi/initiatorname.iscsi; "GenerateName=yes" in it makes a new name
# GUESS: that the initiator name is like SSH host keys and the machine id: removed from an image, it is made at the next
#   start. So it is on Red Hat's and SUSE's systems, whose iscsi-init.service makes a missing file.
# SEEN: Debian's unit runs /lib/open-iscsi/startup-checks.sh first. Without the file it ends with 1 ("InitiatorName file ...
#   is missing!"), so iscsid.service fails on every instance; with an empty file it fails too ("does not contain a valid
#   InitiatorName"). With the one line "GenerateName=yes" it makes a random name, other at every fresh start, and keeps it.
# VERSIONS: open-iscsi 2.1.8-1 (Debian 12)
# SOURCE: lib/open-iscsi/startup-checks.sh and the unit's ExecStartPre of that package
# WHY: an image that ships the name lets two instances write to each other's volumes; one that merely lacks the file has no
#   iSCSI at all. A pipeline has to do one thing on Debian and the other elsewhere.
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
R=$T/root N=$T/root/etc/iscsi/initiatorname.iscsi
fetch bookworm "$R" open-iscsi=2.1.8-1 dash grep coreutils
check() { chroot "$R" /bin/sh /lib/open-iscsi/startup-checks.sh 2>&1; }
mkdir -p "$R/etc/iscsi"; touch "$R/etc/iscsi/iscsid.conf"; rm -f "$R/bin/sh"; ln -s dash "$R/bin/sh"

grep -h ExecStartPre "$R"/lib/systemd/system/*.service | grep startup-checks || fail "the unit does not run the script"
rm -f "$N"
if said=$(check); then fail "a missing file does not stop it"; fi
echo "missing: $said"; grep -q 'is missing' <<< "$said" || fail "it stopped for another reason"
: > "$N"
if said=$(check); then fail "an empty file does not stop it"; fi
echo "empty: $said"; grep -q 'valid InitiatorName' <<< "$said" || fail "it stopped for another reason"
names=()
for _ in 1 2; do
    echo GenerateName=yes > "$N"
    check || fail "GenerateName=yes stops it"
    names+=("$(grep ^InitiatorName= "$N")")
    check; [ "$(grep ^InitiatorName= "$N")" = "${names[-1]}" ] || fail "the name is not kept"
done
echo "GenerateName=yes: ${names[*]}"
[ "${names[0]}" != "${names[1]}" ] || fail "the names are the same"
