#!/usr/bin/env bash
# SUMMARY: where matching one rule of file_contexts reaches PCRE2's match limit, libselinux ends the lookup as if no
#   rule matched: matchpathcon says <<none>>, status 0, no message, though an earlier rule gives the path a label.
# GUESS: a rule that cannot be decided is an error, or is passed over and the next rule that matches counts.
# SEEN: rules "/srv(/.*)?" and, later, "/srv/([^/.]+-?)*\.log". /srv/short.tgz is var_t by the first. A file whose name
#   has 40 letters before ".tgz" has no label at all: "<<none>>", nothing on standard error, status 0, just as for a
#   rule that says <<none>>. sefcontext_compile accepts the rules, and with its file the answer is the same.
# VERSIONS: selinux-utils 3.4-1+b6 (Debian 12), 3.8.1-1 (Debian 13): alike
# SOURCE: matchpathcon(8), file_contexts(5), pcre2api(3) on match limits
# WHY: who labels files of an offline image with the guest's policy leaves such a file without a label and believes the
#   policy wanted that; in the instance it is unlabeled_t. A label that is missing needs a second look, not trust.
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
ask() { # ROOT FILE PATH: what matchpathcon says of the path, and its status
    local status=0
    inside "$1" /usr/sbin/matchpathcon -N -n -f "$2" -m file "$3" > "$T/out" 2> "$T/err" || status=$?
    echo "$(cat "$T/out") (status $status, $(wc -c < "$T/err") bytes of errors)"
}

fetch bookworm "$T/old" selinux-utils=3.4-1+b6
fetch trixie "$T/new" selinux-utils=3.8.1-1
long=/srv/$(printf 'a%.0s' {1..40}).tgz
for root in old new; do
    rules=$T/$root.rules
    printf '/srv(/.*)?\tsystem_u:object_r:var_t:s0\n/srv/([^/.]+-?)*\\.log\tsystem_u:object_r:var_log_t:s0\n' > "$rules"
    for compiled in no yes; do
        [ $compiled = no ] || inside "$T/$root" /usr/sbin/sefcontext_compile -o "$rules.bin" "$rules" || fail "$root refuses the rules"
        for path in /srv/short.tgz /srv/short.log "$long"; do
            said=$(ask "$T/$root" "$rules" "$path")
            echo "$root, compiled $compiled, $path: $said"
            case $path in
                /srv/short.tgz) [[ $said == "system_u:object_r:var_t:s0 (status 0, 0 bytes"* ]] || fail "the first rule is not used" ;;
                /srv/short.log) [[ $said == "system_u:object_r:var_log_t:s0 (status 0, 0 bytes"* ]] || fail "the second rule is not used" ;;
                *) [[ $said == "<<none>> (status 0, 0 bytes"* ]] || fail "the long name is labelled" ;;
            esac
        done
    done
done
