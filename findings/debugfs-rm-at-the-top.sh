#!/usr/bin/env bash
# SUMMARY: debugfs's rm "/NAME" unlinks NAME of the current directory, and frees the inode of the one at the top.
# GUESS: an absolute path means the same entry whatever directory an earlier `cd` of the script went to.
# SEEN: after `cd /etc`, `rm "/fstab"` removes the name /etc/fstab and frees the inode of /fstab: one file is lost by
#   name, another's name leads to a freed inode. Without an /etc/fstab it says "No free space in the directory" and
#   /fstab stays. rm, rmdir, mkdir and symlink split the path at its last slash and look up what is left of it, the
#   empty string, from the current directory. The exit status is 0 in every case. A name further down is not affected.
# VERSIONS: e2fsprogs 1.47.0-2+b2 (bookworm), 1.47.2-3+b12 (trixie).
# SOURCE: debugfs(8): "rm pathname: Unlink pathname."; seen when an image editor removed /swapfile after writing /etc/fstab.
# WHY: tools that edit images without mounting drive debugfs by scripts that mix `cd` (which `write` needs) with
#   absolute paths; swap files, .autorelabel and the links of a merged /usr lie at the top. `cd /` before each is the way.
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

T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT

try() { # SUITE VERSION
    local root="$T/$1" image="$T/$1.img" said
    fetch "$1" "$root" "e2fsprogs=$2"
    mkdir -p "$T/top/etc"
    echo top > "$T/top/fstab"
    echo etc > "$T/top/etc/fstab"
    inside "$root" /usr/sbin/mke2fs -q -t ext4 -d "$T/top" "$image" 8M > "$T/made" 2>&1
    printf 'cd /etc\nrm "/fstab"\n' > "$T/script"
    said=$(inside "$root" /usr/sbin/debugfs -w -f "$T/script" "$image" 2>&1) || fail "$1: exit status $?"
    echo "== $1, $2"
    echo "$said"
    inside "$root" /usr/sbin/debugfs -R 'ls -p /' "$image" 2> /dev/null | grep fstab || fail "$1: /fstab went"
    if inside "$root" /usr/sbin/debugfs -R 'ls -p /etc' "$image" 2> /dev/null | grep fstab; then
        fail "$1: /etc/fstab stays"
    fi
    echo "/etc/fstab is gone, /fstab is still named"
    if inside "$root" /usr/sbin/e2fsck -fn "$image" > "$T/check" 2>&1; then fail "$1: the file system is sound"; fi
    grep -i "fstab" "$T/check" || true
}

try bookworm 1.47.0-2+b2
try trixie 1.47.2-3+b12
