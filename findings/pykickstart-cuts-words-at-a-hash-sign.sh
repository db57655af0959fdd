#!/usr/bin/env bash
# SUMMARY: pykickstart drops the rest of a line after any "#", in the middle of a word too, without a word
# GUESS: as in a shell, "#" begins a comment only at the start of a word: in `rootpw --plaintext pass#word`
#   the password is "pass#word", in `url --url=http://mirror/os#x` the fragment belongs to the URL
# SEEN: the password is "pass", the label "a", the URL ends before "#"; ksvalidator ends with 0 and no message
# VERSIONS: pykickstart 3.78 (its parser splits lines by Python's shlex.split(comments=True))
# SOURCE: pykickstart/parser.py, KickstartParser._stateMachine; Python's documentation of shlex.split, which
#   does not say that a comment may begin inside a word
# WHY: a generated password, a WPA key or a URL with "#" in it, put into a kickstart by a template, installs
#   systems with another password than the one handed out; nothing fails. Quotation marks around the value help.
set -eu
fail() { echo "NO LONGER SO: $*" >&2; exit 1; }
T=$(mktemp -d); trap 'rm -rf "$T"' EXIT
python3 -m venv "$T/v"
"$T/v/bin/pip" -q install pykickstart==3.78
cat > "$T/plain.ks" <<'KS'
rootpw --plaintext pass#word
url --url=http://mirror/os#x
part / --size=1000 --label=a#b
KS
sed 's/pass#word/"pass#word"/' "$T/plain.ks" > "$T/quoted.ks"
"$T/v/bin/ksvalidator" -v RHEL9 "$T/plain.ks" || fail "ksvalidator complains"
read_back() { # FILE: what was understood, on three lines
    "$T/v/bin/python" - "$1" <<'PY'
import sys
from pykickstart.parser import KickstartParser
from pykickstart.version import makeVersion
handler = makeVersion("RHEL9")
KickstartParser(handler).readKickstart(sys.argv[1])
print(handler.rootpw.password)
print(handler.url.url)
print(handler.partition.partitions[0].label)
PY
}
seen=$(read_back "$T/plain.ks")
printf 'written: pass#word, http://mirror/os#x, a#b; understood:\n%s\n' "$seen"
[ "$seen" = "$(printf 'pass\nhttp://mirror/os\na')" ] || fail "the words arrive whole"
quoted=$(read_back "$T/quoted.ks" | head -1)
echo "with quotation marks: $quoted"
[ "$quoted" = 'pass#word' ] || fail "quotation marks do not help"
