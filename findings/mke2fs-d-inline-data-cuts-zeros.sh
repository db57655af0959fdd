#!/usr/bin/env bash
# SUMMARY: `mke2fs -d` onto a file system with inline_data cuts the zeros off the end of files: 10240 bytes become 2048, exit status 0, e2fsck content.
# GUESS: mke2fs -d copies every file byte for byte; a run of zeros at its end becomes a hole, and the size stays.
# SEEN: with -O inline_data a file of 2048 random bytes and 8192 zeros has a size of 2048 in the image, one of 5000 and 5240 has
#       5120; a file of zeros alone and one of random bytes keep their 10240. Without inline_data all four keep theirs.
#       e2fsck -fn finds nothing, as nothing is inconsistent.
# VERSIONS: e2fsprogs 1.47.0-2+b2 (bookworm), 1.47.2-3+b12 (trixie)
# SOURCE: mke2fs(8), -d and -O; ext4(5), inline_data
# WHY: disk images, kernels, archives and database files end in zeros; a root made from a folder for an image with
#      inline_data (which saves much space for small files) loses those bytes without a word. A boot loader then
#      finds a kernel that is shorter than its own header says.
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
mkdir "$T/tree"
{ head -c 2048 /dev/urandom; head -c 8192 /dev/zero; } > "$T/tree/short"
{ head -c 5000 /dev/urandom; head -c 5240 /dev/zero; } > "$T/tree/longer"
head -c 10240 /dev/zero > "$T/tree/zeros"
head -c 10240 /dev/urandom > "$T/tree/random"
sizes() { # SUITE FEATURE: "name size" of each file in an image made of the tree
    inside "$T/$1" /usr/sbin/mke2fs -q -F -t ext4 -O "$2" -d "$T/tree" "$T/$1.$2" 32M > /dev/null
    inside "$T/$1" /usr/sbin/e2fsck -fn "$T/$1.$2" > /dev/null 2>&1 || fail "e2fsck finds a fault"
    inside "$T/$1" /usr/sbin/debugfs -R "ls -l /" "$T/$1.$2" 2> /dev/null | awk '$2 ~ /^100/ {print $NF, $6}' | sort | xargs
}
for suite in bookworm=1.47.0-2+b2 trixie=1.47.2-3+b12; do
    fetch "${suite%%=*}" "$T/${suite%%=*}" "e2fsprogs=${suite#*=}"
    plain=$(sizes "${suite%%=*}" ^inline_data); inline=$(sizes "${suite%%=*}" inline_data)
    echo "$suite, without inline_data: $plain"; echo "$suite, with it:             $inline"
    [ "$plain" = "longer 10240 random 10240 short 10240 zeros 10240" ] || fail "plain files have other sizes"
    [ "$inline" = "longer 5120 random 10240 short 2048 zeros 10240" ] || fail "the zeros are there"
done
