#!/usr/bin/env bash
# SUMMARY: e2fsck -p repairs a file system, begins again, and leaves with exit status 0 ("no errors").
# GUESS: Exit status 1 ("file system errors corrected", e2fsck(8)) whenever e2fsck -p changed something; 0 means that the
#        file system was whole, so that `e2fsck -p; [ $? = 0 ]` proves that nothing had to be corrected.
# SEEN: A group descriptor flagged INODE_UNINIT although the group holds inodes: e2fsck -f -n ends with 4 and would
#       clear the directory's entries; e2fsck -f -p says "FIXED. Restarting e2fsck from the beginning..." and ends with
#       0, with all files back. The restart forgets that something was changed.
# VERSIONS: e2fsprogs 1.47.0-2+b2 (Debian 12)
# SOURCE: e2fsck(8), EXIT CODE; https://www.kernel.org/doc/html/latest/filesystems/ext4/ (bg_flags, lazy initialisation)
# WHY: Image tools copy only the blocks that the bitmaps call used, and take e2fsck's 0 on the copy for a proof that the
#      bitmaps were right: here the inode tables and counts were not. Go by what -n says of the original, or by the
#      lines that -p prints, not by its status alone.
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
fetch bookworm "$T/root" e2fsprogs=1.47.0-2+b2
e2() { inside "$T/root" "/usr/sbin/$1" "${@:2}"; }
mkdir -p "$T/tree/srv"; for n in $(seq 40); do echo "file $n" > "$T/tree/srv/$n"; done
e2 mke2fs -q -F -t ext4 -b 1024 -g 1024 -N 512 -O ^metadata_csum,uninit_bg,^64bit,^flex_bg,^resize_inode,sparse_super2 \
    -d "$T/tree" "$T/image" 32M > /dev/null
e2 e2fsck -f -n "$T/image" > /dev/null 2>&1 || fail "it is not whole to begin with"
# Sixteen inodes a group: the third holds files. 0x7: INODE_UNINIT beside the flags it has, BLOCK_UNINIT and ZEROED.
e2 debugfs -w -R "set_bg 2 flags 0x7" "$T/image" 2> /dev/null
e2 debugfs -w -R "set_bg 2 checksum calc" "$T/image" 2> /dev/null
status=0; e2 e2fsck -f -n "$T/image" > "$T/n" 2>&1 || status=$?
grep -m 2 -E "INODE_UNINIT|deleted/unused" "$T/n"; echo "e2fsck -n: exit status $status"
[ "$status" = 4 ] || fail "e2fsck -n ends with $status"
status=0; e2 e2fsck -f -p "$T/image" > "$T/p" 2>&1 || status=$?
cat "$T/p"; echo "e2fsck -p: exit status $status"
grep -q FIXED "$T/p" || fail "e2fsck -p did not repair it"
[ "$status" = 0 ] || fail "e2fsck -p ends with $status"
e2 e2fsck -f -n "$T/image" > /dev/null 2>&1 || fail "it is not whole afterwards"
