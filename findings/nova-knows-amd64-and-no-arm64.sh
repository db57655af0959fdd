#!/usr/bin/env bash
# SUMMARY: Nova takes Debian's and Go's word for one architecture, `amd64`, and refuses the same family's word for the
#   other, `arm64`.
# GUESS: An image property `architecture=arm64` is put right as `amd64` is, or means aarch64 as it does for EC2,
#   Debian, simplestreams and containers.
# SEEN: nova.objects.fields.Architecture.canonicalize makes x86_64 of amd64 and i686 of i386, and raises
#   InvalidArchitectureName for arm64; only aarch64 will do. OpenStack's ec2-api copies a bundle's <architecture>
#   into that property as it stands.
# VERSIONS: nova 31.0.0
# SOURCE: nova/objects/fields.py, class Architecture, canonicalize; ec2api/api/image.py, _s3_parse_manifest
# WHY: An image that is registered with EC2's own word for arm64 is taken by Glance, which checks nothing, and no
#   instance of it can be scheduled. Whoever publishes to several clouds needs a table of words, not one word.
set -eu
fail() { echo "NO LONGER SO: $*" >&2; exit 1; }
T=$(mktemp -d); trap 'rm -rf "$T"' EXIT
python3 -m venv "$T/v"
"$T/v/bin/pip" -qq install nova==31.0.0
"$T/v/bin/python" -W ignore - <<'PYTHON' || fail "Nova puts arm64 right, or amd64 no more"
from nova import exception
from nova.objects.fields import Architecture

print("amd64 ->", Architecture.canonicalize("amd64"))
print("aarch64 ->", Architecture.canonicalize("aarch64"))
assert Architecture.canonicalize("amd64") == "x86_64"
assert Architecture.canonicalize("aarch64") == "aarch64"
try:
    print("arm64 ->", Architecture.canonicalize("arm64"))
except exception.InvalidArchitectureName as error:
    print(f"arm64 -> {type(error).__name__}: {error}")
else:
    raise SystemExit(1)
PYTHON
