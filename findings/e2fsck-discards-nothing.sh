#!/usr/bin/env bash
# SUMMARY: `e2fsck -f -p -E discard` of an image made by `mke2fs -d` discards nothing the first time, says so nowhere, exits 0.
# GUESS: where preening finds no fault (exit status 0, nothing printed but the summary) free blocks are discarded.
# SEEN: a directory of several blocks, which `mke2fs -d` writes without an index, is indexed silently; that counts as a
#   change, and a run that changes anything leaves every free block as it is. Exit status 0, no word, and the deleted
#   file can be read from the image. The same command run again discards all of it.
# VERSIONS: e2fsprogs 1.47.0-2+b2 (bookworm), 1.47.2-3+b12 (trixie).
# SOURCE: e2fsck(8), -E discard: "only if it does not contain recognizable errors"; seen with a tree of 700 small files.
# WHY: image builders remove keys, caches and swap files and run this once to make the image sparse and clean; with
#   roots made by mke2fs -d (genimage, systemd-repart) the secrets stay and the image stays large.
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

left() { grep -oa 'SECRET-PAGE' "$1" | wc -l; }

try() { # SUITE VERSION
    local root="$T/$1" image="$T/$1.img" number
    fetch "$1" "$root" "e2fsprogs=$2"
    rm -rf "$T/top"
    mkdir -p "$T/top/many"
    for number in $(seq 700); do echo "$number" > "$T/top/many/a-file-of-a-large-directory-$number"; done
    for number in $(seq 100000); do echo SECRET-PAGE; done > "$T/top/swapfile"
    inside "$root" /usr/sbin/mke2fs -q -t ext4 -d "$T/top" "$image" 96M > "$T/made" 2>&1
    inside "$root" /usr/sbin/debugfs -w -R 'rm /swapfile' "$image" 2> /dev/null
    echo "== $1, $2: $(left "$image") before"
    for number in first second; do
        inside "$root" /usr/sbin/e2fsck -f -p -E discard "$image" || fail "$1: exit status $?"
        echo "$1: after the $number run, which exits with 0: $(left "$image")"
        if [ "$number" = first ]; then
            [ "$(left "$image")" -gt 99000 ] || fail "$1: the first run discards"
        else
            [ "$(left "$image")" -eq 0 ] || fail "$1: the second run does not discard"
        fi
    done
}

try bookworm 1.47.0-2+b2
try trixie 1.47.2-3+b12
