#!/usr/bin/env bash
# SUMMARY: `mke2fs -O quota -d DIR` makes a file system that e2fsck refuses: its quota files do not know the files just copied.
# GUESS: mke2fs writes the quota inodes with what it put into the file system, so a new image is clean, as without quota.
# SEEN: mke2fs exits 0; "e2fsck -fn" of the untouched result exits 4 with "Missing quota entry ID 1000" (the owner of
#   the file just copied): usage was counted before DIR was copied. Without -O quota, or without -d, it exits 0.
# VERSIONS: e2fsprogs 1.47.0-2+b2 (bookworm), 1.47.2-3+b12 (trixie)
# SOURCE: mke2fs(8), -d and the feature quota (ext4(5))
# WHY: whoever makes roots from folders and checks them, or trusts a copy of used blocks to a check of the original, gets a
#   "damaged" file system from the maker itself; limits are enforced on wrong counts until e2fsck -p has run.
set -euo pipefail
T=$(mktemp -d); trap 'rm -rf "$T"' EXIT
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

mkdir "$T/tree"
head -c 100000 /dev/urandom > "$T/tree/file"
chown 1000:1000 "$T/tree/file"

status() { # SUITE WORDS...: e2fsck's exit status for an image just made with these words of mke2fs
    local root="$T/$1" image="$T/image" code=0; shift
    rm -f "$image"; truncate -s 64M "$image"
    inside "$root" /usr/sbin/mke2fs -q -F -t ext4 "$@" "$image"
    inside "$root" /usr/sbin/e2fsck -f -n "$image" > "$T/said" 2>&1 || code=$?
    echo "mke2fs $*: e2fsck -fn exits $code"
    sed -n 's/.*\[QUOTA WARNING\]/    &/p' "$T/said"
    [ "$code" = "$wanted" ] || fail "the status is not $wanted"
}

for suite in bookworm=1.47.0-2+b2 trixie=1.47.2-3+b12; do
    name=${suite%%=*}
    fetch "$name" "$T/$name" "e2fsprogs=${suite#*=}"
    echo "== $name"
    wanted=4 status "$name" -O quota -d "$T/tree"
    wanted=0 status "$name" -O quota
    wanted=0 status "$name" -d "$T/tree"
done
