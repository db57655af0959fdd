#!/usr/bin/env bash
# SUMMARY: xfs_db of xfsprogs 6.1 prints the new label of an XFS made by 7.2 and exits 0, yet nothing was written; xfs_repair exits 1, its status for damage.
# GUESS: A tool that cannot write to a file system with features it does not know says so by its exit status, and
#        does not print the new label; a checker has another exit status for "I am too old" than for "it is damaged".
# SEEN: `label fresh` prints "write error: Structure needs cleaning" and then 'new label = "fresh"', exit 0; read back,
#       the label is empty. xfs_admin -L is this command. xfs_repair -n: "Found unsupported filesystem features", exit 1,
#       which xfs_repair(8) gives as "corruption was detected".
# VERSIONS: xfsprogs 6.1.0-1 (Debian 12) on a file system by mkfs.xfs 7.2.0-1 with its defaults (exchange and parent,
#           default since 6.18.0 of December 2025)
# SOURCE: xfs_admin(8), xfs_repair(8); mkfs.xfs(8) of 7.2; the kernel's fs/xfs/libxfs/xfs_format.h
# WHY: Image pipelines on a stable host label and check guests that are a year newer: the label that root=LABEL= needs
#      is missing although every exit status was right, and a whole file system is called damaged. Read the label
#      back, and go by the feature word (superblock, byte 216) before anything else.
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
fetch bookworm "$T/old" xfsprogs=6.1.0-1
fetch forky "$T/new" xfsprogs=7.2.0-1
truncate -s 320M "$T/image"
inside "$T/new" /usr/sbin/mkfs.xfs -q "$T/image"
echo "== xfs_db 6.1: label"
status=0; said=$(inside "$T/old" /usr/sbin/xfs_db -x -c "label fresh" "$T/image" 2>&1) || status=$?
echo "$said"; echo "exit status $status"
[ "$status" = 0 ] || fail "xfs_db ends with $status"
[[ $said == *'new label = "fresh"'* ]] || fail "xfs_db does not print the new label"
echo "== xfs_db 7.2: the label that is there"
there=$(inside "$T/new" /usr/sbin/xfs_db -r -c label "$T/image" 2>/dev/null); echo "$there"
[ "$there" = 'label = ""' ] || fail "the label was written"
echo "== xfs_repair -n 6.1, then 7.2"
status=0; inside "$T/old" /usr/sbin/xfs_repair -n -f "$T/image" 2>&1 | tail -3 || status=$?
echo "exit status $status"
[ "$status" = 1 ] || fail "xfs_repair of 6.1 ends with $status"
inside "$T/new" /usr/sbin/xfs_repair -n -f "$T/image" > /dev/null 2>&1 || fail "it is damaged"
echo "7.2 finds it whole"
