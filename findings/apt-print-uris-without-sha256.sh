#!/usr/bin/env bash
# SUMMARY: `apt-get --print-uris install` prints no checksum for a package whose index has SHA-256 alone, as debian-security's has
# GUESS: each line ends with the strongest checksum that the index has, by which whoever fetches the file can check it;
#   apt itself trusts no MD5 since 2016 and downloads by SHA-256
# SEEN: with MD5sum and SHA256 in the index the line ends with "MD5Sum:..."; with SHA256 alone its last field is empty, exit
#   status 0; with -o Acquire::ForceHash=SHA256 both end with "SHA256:..."
# VERSIONS: apt 2.6.1 (Debian 12)
# SOURCE: apt-get(8): "--print-uris: ... Each URI will have the path, the destination file name, the size and the expected MD5 hash"
# WHY: a mirror script or builder that fetches what apt resolved has nothing to check the files by, just for the packages
#   of security updates, and notices only if it looks for the field
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
fetch bookworm "$T/r" apt=2.6.1 dpkg dash coreutils
mkdir -p "$T/r/repo" "$T/r/dev" "$T/r/var/lib/dpkg/updates" "$T/r/var/lib/dpkg/info" "$T/r/tmp"
: > "$T/r/var/lib/dpkg/status"
stanza() { # NAME FIELD...: a package of the index
    printf 'Package: %s\nVersion: 1\nArchitecture: all\nMaintainer: A <a@example.org>\nDescription: a\nFilename: %s_1_all.deb\nSize: 10\n' "$1" "$1"
    shift; printf '%s\n' "$@" ''
}
md5="MD5sum: $(printf a | md5sum | cut -d' ' -f1)"; sha="SHA256: $(printf a | sha256sum | cut -d' ' -f1)"
{ stanza both "$md5" "$sha"; stanza strong "$sha"; } > "$T/r/repo/Packages"
echo 'deb [trusted=yes] copy:/repo ./' > "$T/r/etc/apt/sources.list"
apt=(chroot "$T/r" /usr/bin/env PATH=/usr/sbin:/usr/bin apt-get -qq -o APT::Sandbox::User=root)
"${apt[@]}" update 2>&1 | grep -v '^W:' || true
"${apt[@]}" --print-uris install both strong > "$T/plain"
"${apt[@]}" -o Acquire::ForceHash=SHA256 --print-uris install both strong > "$T/forced"
echo "as it is:"; cat "$T/plain"; echo "with Acquire::ForceHash=SHA256:"; cat "$T/forced"
grep -q "both_1_all.deb 10 MD5Sum:" "$T/plain" || fail "both is listed otherwise"
grep -qE "strong_1_all.deb 10 *$" "$T/plain" || fail "a checksum is printed"
[ "$(grep -c ' 10 SHA256:' "$T/forced")" = 2 ] || fail "ForceHash prints others"
