#!/usr/bin/env bash
# SUMMARY: Reading a zstd file that a broken download cut off, Python's zstandard ends as if it were whole: fewer bytes, no
#   error; gzip, lzma and bz2 of the standard library raise EOFError.
# GUESS: zstandard.open(FILE).read() and ZstdDecompressor().stream_reader() raise at the end of a file whose last frame has
#   no end, as `zstd -d` does ("premature end") and as the three modules with the same interface do.
# SEEN: Half of a file of 3,000,000 bytes is read to its end without an error, and fewer bytes come than were packed; the
#   same cut by gzip, lzma and bz2 is an EOFError, by zstd(1) an exit status of 1.
# VERSIONS: zstandard 0.25.0 (python-zstandard), zstd 1.5.4+dfsg2-5 (Debian 12)
# SOURCE: python-zstandard, decompressionreader: at the end of the input it returns what it has; RFC 8878, 3.1.1 (a frame
#   ends with its last block)
# WHY: A disk image that lost its end looks like a smaller disk. Use decompressobj() and ask `eof` after the last byte.
set -eu
fail() { echo "NO LONGER SO: $*" >&2; exit 1; }
T=$(mktemp -d); trap 'rm -rf "$T"' EXIT
python3 -m venv "$T/v"
"$T/v/bin/pip" -q install zstandard==0.25.0
seen=$("$T/v/bin/python" - "$T/cut.zst" <<'PY'
import bz2, gzip, io, lzma, random, sys
import zstandard
plain = random.Random(1).randbytes(3_000_000)
def tried(name, packed, read):
    try:
        print(name, "says nothing" if len(read(packed[: len(packed) // 2])) < len(plain) else "gave all")
    except EOFError as error:
        print(name, "EOFError")
tried("gzip", gzip.compress(plain), lambda d: gzip.open(io.BytesIO(d)).read())
tried("lzma", lzma.compress(plain), lambda d: lzma.open(io.BytesIO(d)).read())
tried("bz2", bz2.compress(plain), lambda d: bz2.open(io.BytesIO(d)).read())
packed = zstandard.ZstdCompressor().compress(plain)
tried("zstandard.open", packed, lambda d: zstandard.open(io.BytesIO(d)).read())
tried("stream_reader", packed, lambda d: zstandard.ZstdDecompressor().stream_reader(io.BytesIO(d)).readall())
open(sys.argv[1], "wb").write(packed[: len(packed) // 2])
PY
)
echo "$seen"
has() { grep -qxF "$1" <<<"$seen" || fail "there is no line: $1"; }
has 'gzip EOFError'
has 'lzma EOFError'
has 'bz2 EOFError'
has 'zstandard.open says nothing'
has 'stream_reader says nothing'
if command -v zstd >/dev/null; then
  if zstd -dqc "$T/cut.zst" >/dev/null 2>"$T/said"; then fail "zstd(1) takes it too"; fi
  cat "$T/said"
fi
