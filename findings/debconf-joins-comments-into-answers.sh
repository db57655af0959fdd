#!/usr/bin/env bash
# SUMMARY: a comment line between the continued lines of a preseed becomes part of the answer
# GUESS: lines that begin with "#" are comments, wherever they stand, so one between the lines of a long
#   late_command or expert_recipe (with a backslash at its end, to keep the chain) is left out
# SEEN: debconf-set-selections joins it with the rest: the answer is "true; # why   echo two", and the shell
#   that runs it takes everything after "#" for a comment. No message, status 0, --checkonly too
# VERSIONS: debconf 1.5.82 (Debian 12)
# SOURCE: debconf-set-selections(1): lines beginning with "#" are comments, lines that end with a backslash go on
# WHY: half of an unattended installation's commands silently do not run; the image boots, and what they
#   were to set up is missing
set -eu
fail() { echo "NO LONGER SO: $*" >&2; exit 1; }
T=$(mktemp -d); trap 'rm -rf "$T"' EXIT
fetch() { # SUITE ROOT PACKAGE=VERSION...: these packages, unpacked below ROOT
    local suite=$1 root=$2 mirror a="$T/apt-$1" deb; shift 2
    mirror=$(grep -rhoE 'https?://[^ ]+/debian/?( |$)' /etc/apt/sources.list /etc/apt/sources.list.d 2>/dev/null | sed -n 1p) || true
    mkdir -p "$a"/lists/partial "$a"/cache/archives/partial "$root"; : > "$a/status"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" > "$a/list"
    local apt=(apt-get -qq -o Dir::Etc::SourceList="$a/list" -o Dir::Etc::SourceParts=- -o Dir::State::Lists="$a/lists"
        -o Dir::State::status="$a/status" -o Dir::Cache="$a/cache" -o Acquire::Languages=none -o Acquire::Check-Valid-Until=false
        -o APT::Sandbox::User=root -o Debug::NoLocking=true)
    "${apt[@]}" update
    (cd "$a/cache/archives" && "${apt[@]}" download "$@") || fail "the mirror has no $* in $suite"
    for deb in "$a"/cache/archives/*.deb; do dpkg-deb -x "$deb" "$root"; done
}
fetch bookworm "$T/root" debconf=1.5.82
cat > "$T/preseed" <<'PRESEED'
# A comment of its own is left out.
d-i preseed/late_command string true; \
# why \
  echo two
PRESEED
export DEBIAN_FRONTEND=noninteractive DEBCONF_SYSTEMRC="$T/debconf.conf" PERL5LIB="$T/root/usr/share/perl5"
cat > "$T/debconf.conf" <<CONF
Config: all
Templates: texts

Name: all
Driver: File
Filename: $T/config.dat

Name: texts
Driver: File
Filename: $T/templates.dat
CONF
perl "$T/root/usr/bin/debconf-set-selections" --checkonly "$T/preseed" || fail "it is refused"
perl "$T/root/usr/bin/debconf-set-selections" "$T/preseed" || fail "it is refused"
answer=$(sed -n 's/^Value: //p' "$T/config.dat")
echo "the answer: $answer"
[ "$answer" = "true; # why   echo two" ] || fail "the comment is left out"
echo "run by a shell it prints: '$(sh -c "$answer")'"
[ -z "$(sh -c "$answer")" ] || fail "the command behind the comment runs"
