#!/usr/bin/env bash
# SUMMARY: spdx-tools refuses `Apache-2.0+`, which SPDX allows, and writes the listed licence Net-SNMP anew as a
#   LicenseRef that the document does not explain, which it then finds valid.
# GUESS: The validator of the SPDX project takes every licence expression of the specification's grammar, whose
#   simple-expression is `license-id`, `license-id "+"` or `license-ref`, and refuses a LicenseRef that has no text in
#   the document; and what is read and written says the same licence.
# SEEN: "Apache-2.0+", "MPL-1.1+ OR MIT" and the like are "unrecognized license references"; "GPL-2.0+" passes, for that
#   is a (deprecated) identifier of its own. "mit" passes and is written as "MIT". "Net-SNMP" is written as
#   "LicenseRef-scancode-net-snmp", with no extracted text beside it, and that is "valid"; "LicenseRef-other" is refused.
# VERSIONS: spdx-tools 0.8.5 with license-expression 30.4.4, boolean.py 5.0
# SOURCE: SPDX 2.3, annex D.2 (ABNF) and D.3 ("+" as a unary operator); license_expression.get_spdx_licensing, which
#   knows identifiers only and puts the keys of ScanCode among them
# WHY: A gate in CI that asks this validator refuses right bills of materials, and a converter built on this library
#   makes wrong ones of right ones. Declare such a licence as a LicenseRef with its own words, and write "-or-later".
set -eu
fail() { echo "NO LONGER SO: $*" >&2; exit 1; }
T=$(mktemp -d); trap 'rm -rf "$T"' EXIT
python3 -m venv "$T/v"
"$T/v/bin/pip" -q install spdx-tools==0.8.5 license-expression==30.4.4 boolean.py==5.0
cat > "$T/try.py" <<'PY'
"""Print the licence of a package of a minimal document: as it was, what the validator says, as it is written anew."""
import json, sys, warnings
warnings.simplefilter("ignore")
from spdx_tools.spdx.parser.parse_anything import parse_file
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document
from spdx_tools.spdx.writer.write_anything import write_file
folder = sys.argv[1]
for licence in sys.argv[2:]:
    document = {
        "spdxVersion": "SPDX-2.3", "dataLicense": "CC0-1.0", "SPDXID": "SPDXRef-DOCUMENT", "name": "one",
        "documentNamespace": "https://example.org/one",
        "creationInfo": {"created": "2026-01-01T00:00:00Z", "creators": ["Organization: Example"]},
        "packages": [{"SPDXID": "SPDXRef-a", "name": "a", "downloadLocation": "NOASSERTION", "filesAnalyzed": False,
                      "licenseDeclared": licence}],
        "relationships": [{"spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES",
                           "relatedSpdxElement": "SPDXRef-a"}],
    }
    json.dump(document, open(f"{folder}/in.spdx.json", "w"))
    read = parse_file(f"{folder}/in.spdx.json")
    said = "refused" if validate_full_spdx_document(read) else "valid"
    write_file(read, f"{folder}/out.spdx.json", validate=False)
    written = json.load(open(f"{folder}/out.spdx.json"))["packages"][0]["licenseDeclared"]
    again = "refused" if validate_full_spdx_document(parse_file(f"{folder}/out.spdx.json")) else "valid"
    print(f"{licence} | {said} | {written} | {again}")
PY
seen=$("$T/v/bin/python" "$T/try.py" "$T" Apache-2.0 Apache-2.0+ "MPL-1.1+ OR MIT" GPL-2.0+ mit Net-SNMP LicenseRef-other)
printf 'declared | by the validator | as written anew | by the validator\n%s\n' "$seen"
has() { grep -qxF "$1" <<<"$seen" || fail "there is no line: $1"; }
has 'Apache-2.0 | valid | Apache-2.0 | valid'
has 'Apache-2.0+ | refused | Apache-2.0+ | refused'
has 'MPL-1.1+ OR MIT | refused | MPL-1.1+ OR MIT | refused'
has 'GPL-2.0+ | valid | GPL-2.0-or-later | valid'
has 'mit | valid | MIT | valid'
has 'Net-SNMP | valid | LicenseRef-scancode-net-snmp | valid'
has 'LicenseRef-other | refused | LicenseRef-other | refused'
