#!/usr/bin/env bash
# SUMMARY: incus-simplestreams writes streams/v1/index.json anew at each `add`: the entries of all other publishers
#   are gone, and so is `updated`, without which the index is none by the format's own description.
# GUESS: An index of simplestreams lists one products file a publisher, each under its content id, so that several
#   publishers share a mirror; a tool that adds an image changes its own entry and the time stamp.
# SEEN: After `incus-simplestreams add` the index holds the entry "images" alone, whatever was in it before, and has
#   no `updated`, neither at its top nor in the entry. The other publisher's products file stays and is not listed.
# VERSIONS: incus-extra 7.0.2-3 (Debian sid)
# SOURCE: the simplestreams format (doc/README of lp:simplestreams: "updated" of an index);
#   cmd/incus-simplestreams of Incus
# WHY: Whoever publishes VM images for clouds and for Incus from one static web server loses the others with the next
#   Incus image, silently. Publish into directories of their own, or put the entry back after each run; and a reader
#   that insists on `updated`, or a writer that merges only what validates, stops at this index.
set -eu
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
fetch sid "$T/sid" incus-extra=7.0.2-3
mkdir -p "$T/mirror/streams/v1"; cd "$T/mirror"
theirs='{"format":"products:1.0","content_id":"other:images","datatype":"image-downloads","products":{}}'
when='Sat, 21 Nov 2026 05:40:00 +0000'
echo "$theirs" > streams/v1/other.json
echo '{"format":"index:1.0","updated":"'"$when"'","index":{"other:images":{"format":"products:1.0",' \
    '"datatype":"image-downloads","path":"streams/v1/other.json","updated":"'"$when"'","products":[]}}}' > streams/v1/index.json
cat > metadata.yaml <<'YAML'
architecture: x86_64
creation_date: 1764400000
properties: {os: Demo, release: "1", variant: default, architecture: amd64, description: demo}
YAML
tar -cJf metadata.tar.xz metadata.yaml
python3 - <<'PYTHON'
# An empty qcow2 disk of 1 MiB, version 2: header, refcount table, refcount block, L1 table, a cluster of 64 KiB each.
import struct
header = struct.pack(">4sIQIIQIIQQIIQ", b"QFI\xfb", 2, 0, 0, 16, 1 << 20, 0, 1, 3 << 16, 1 << 16, 1, 0, 0)
clusters = (header, struct.pack(">Q", 2 << 16), struct.pack(">4H", 1, 1, 1, 1), b"")
open("disk.qcow2", "wb").write(b"".join(each.ljust(1 << 16, b"\0") for each in clusters))
PYTHON
inside "$T/sid" /usr/bin/incus-simplestreams add metadata.tar.xz disk.qcow2
cat streams/v1/index.json; echo
python3 - <<'PYTHON' || fail "the index keeps others' entries, or says when it was updated"
import json
index = json.load(open("streams/v1/index.json"))
assert list(index["index"]) == ["images"], index
assert "updated" not in index and "updated" not in index["index"]["images"], index
PYTHON
[ "$(cat streams/v1/other.json)" = "$theirs" ] || fail "the other products file was changed"
