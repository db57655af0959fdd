#!/usr/bin/env bash
# SUMMARY: gpg --trust-model always --show-keys of a key that has expired shows nothing and exits 2, for want of a database of trust
# GUESS: --show-keys reads a file and touches no keyring; "always" is the model that needs no database of trust, so
#   a script that sets it everywhere is safe with a new, empty --homedir
# SEEN: for a key that has expired, nothing but "gpg: Fatal: can't open .../trustdb.gpg: No such file or directory" and
#   exit status 2; a key that is good today is listed. Without --trust-model both are listed, exit status 0
# VERSIONS: gnupg 2.2.40-1.1+deb12u2 (Debian 12)
# SOURCE: gpg(1): "--show-keys: ... does not change any existing keys"; "--trust-model always: Skip key validation"
# WHY: what is to tell users that their key has expired says instead that their file holds no key at all
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
inside() { # ROOT PROGRAM ARGUMENT...
    local root=$1; shift
    "$root/lib64/ld-linux-x86-64.so.2" --library-path "$root/usr/lib/x86_64-linux-gnu" "$root$1" "${@:2}"
}
fetch bookworm "$T/root" gpg=2.2.40-1.1+deb12u2
cat > "$T/expired" <<'KEY'
-----BEGIN PGP PUBLIC KEY BLOCK-----

mDMEXgvhABYJKwYBBAHaRw8BAQdA7hBMV6XhRF9V1wnQ3SQsmQlKQbSdGwMquYrp
ao0q1Km0D29sZEBleGFtcGxlLm9yZ4iWBBMWCAA+FiEExs8pfAqhJFBxpvxqZ0lQ
REQrZnYFAl4L4QACGwMFCQHjLcAFCwkIBwIGFQoJCAsCBBYCAwECHgECF4AACgkQ
Z0lQREQrZnYv6gD/W71Rr+1xJnRx+Z4RPkSCCzKIHTHJCIh0pvlDwz0FL3IBAO+g
w9/+fuYvvDw+kNnkvfpj5JFHRHMdOqEAQF4c10wO
=zg6X
-----END PGP PUBLIC KEY BLOCK-----
KEY
shown() { # HOME OPTION...: gpg --show-keys in a new home
    mkdir -m 700 "$T/$1"
    inside "$T/root" /usr/bin/gpg --homedir "$T/$1" --batch --no-autostart "${@:2}" --with-colons --show-keys "$T/expired" 2> "$T/said"
}
plain=0; shown plain > "$T/plain.out" || plain=$?
always=0; shown always --trust-model always > "$T/always.out" || always=$?
cat "$T/said"
echo "without a trust model: status $plain; with --trust-model always: status $always"
[ "$plain" = 0 ] && grep -q '^pub:e:' "$T/plain.out" || fail "it fails without a trust model too"
[ ! -s "$T/always.out" ] || fail "the key is listed"
[ "$always" = 2 ] || fail "the status is $always"
grep -q 'trustdb.gpg' "$T/said" || fail "it is another reason"
