#!/usr/bin/env bash
# SUMMARY: packageurl-python normalises the case of most types, but not of deb and rpm, whose vendors must be in lower
#   case by their definition: one Debian package has two unequal package URLs.
# GUESS: PackageURL.from_string, which lowercases github, pypi, npm, apk, alpm and others as their types ask for, does so
#   for the two types of most Linux distributions too, so that URLs compare by ==.
# SEEN: "pkg:deb/Debian/LibX@1" and "pkg:rpm/Fedora/curl@1" stay as they are and are not equal to the same in lower case;
#   "pkg:apk/Alpine/Curl@1" and "pkg:alpm/Arch/Curl@1" are.
# VERSIONS: packageurl-python 0.17.6
# SOURCE: purl-spec, types deb ("vendor": "not case sensitive and must be lowercased", its name likewise) and rpm (the
#   namespace likewise); packageurl.normalize_namespace and normalize_name, whose lists lack both
# WHY: Vendors write "Debian", "Ubuntu" and "Fedora" so in their own os-release (NAME), and a database of vulnerabilities
#   that is asked by the URL answers with nothing, which looks like a clean image. Lowercase before the library is asked.
set -eu
fail() { echo "NO LONGER SO: $*" >&2; exit 1; }
T=$(mktemp -d); trap 'rm -rf "$T"' EXIT
python3 -m venv "$T/v"
"$T/v/bin/pip" -q install packageurl-python==0.17.6
seen=$("$T/v/bin/python" - <<'PY'
from packageurl import PackageURL
for text in ("pkg:deb/Debian/LibX@1", "pkg:rpm/Fedora/curl@1", "pkg:apk/Alpine/Curl@1", "pkg:alpm/Arch/Curl@1"):
    found = PackageURL.from_string(text)
    same = found == PackageURL.from_string(text.lower())
    print(text, "->", found.to_string(), "the same" if same else "not the same", "as", text.lower())
PY
)
echo "$seen"
has() { grep -qF "$1" <<<"$seen" || fail "there is no line: $1"; }
has 'pkg:deb/Debian/LibX@1 -> pkg:deb/Debian/LibX@1 not the same as'
has 'pkg:rpm/Fedora/curl@1 -> pkg:rpm/Fedora/curl@1 not the same as'
has 'pkg:apk/Alpine/Curl@1 -> pkg:apk/alpine/curl@1 the same as'
has 'pkg:alpm/Arch/Curl@1 -> pkg:alpm/arch/curl@1 the same as'
