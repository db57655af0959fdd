#!/usr/bin/env bash
# SUMMARY: requests unpacks an installer's initrd.gz while downloading it, where the mirror calls it "Content-Encoding:
#   gzip", even when the request said "Accept-Encoding: identity"; its sha256 is then not the one in SHA256SUMS.
# GUESS: a client gives the bytes that lie on the server, as wget and aria2 do, the more so when it accepts no encoding.
# SEEN: mini_httpd labels every *.gz so, whatever the client accepts. wget, aria2 and requests' own `response.raw` give
#   132 bytes with the sha256 of the file; `requests.get(url).content`, and `iter_content` of a stream, give the
#   100,000 bytes inside it. Content-Length says 132 in all cases, so a check of the length against it fails too.
# VERSIONS: requests 2.34.2, urllib3 2.8.0; mini-httpd 1.30-3, wget 1.21.3-1+deb12u1, aria2 1.36.0-1 (Debian 12)
# SOURCE: RFC 9110, 8.4 and 12.5.3; requests' documentation, "Raw Response Content"
# WHY: kernels and ramdisks of install trees, packages and compressed images are verified by digest: a mirror of that
#   kind looks tampered with to a pipeline that reads by requests. Read `raw` with decode_content=False.
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

fetch bookworm "$T/r" mini-httpd=1.30-3 wget=1.21.3-1+deb12u1 aria2=1.36.0-1
python3 -m venv "$T/v"
"$T/v/bin/pip" -q install requests==2.34.2 urllib3==2.8.0
mkdir "$T/www" "$T/got"
head -c 100000 /dev/zero | gzip -n > "$T/www/initrd.gz"
wanted=$(sha256sum < "$T/www/initrd.gz")

port=$("$T/v/bin/python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
inside "$T/r" /usr/sbin/mini_httpd -D -h 127.0.0.1 -p "$port" -d "$T/www" -u "$(id -un)" -l /dev/null 2> /dev/null &
server=$!
trap 'kill $server 2> /dev/null; rm -rf "$T"' EXIT
for _ in $(seq 50); do (: < "/dev/tcp/127.0.0.1/$port") 2> /dev/null && break; sleep 0.1; done

export no_proxy=127.0.0.1 url=http://127.0.0.1:$port/initrd.gz
inside "$T/r" /usr/bin/wget -q -O "$T/got/wget" "$url"
inside "$T/r" /usr/bin/aria2c -q --no-conf -d "$T/got" -o aria2 "$url"
(cd "$T/got" && "$T/v/bin/python" - << 'END'
import os, shutil, requests

headers = {"Accept-Encoding": "identity"}
answer = requests.get(os.environ["url"], headers=headers)
print("the server said:", {k: v for k, v in answer.headers.items() if k.startswith("Content-")})
open("requests.content", "wb").write(answer.content)
with requests.get(os.environ["url"], headers=headers, stream=True) as answer, open("requests.stream", "wb") as file:
    for piece in answer.iter_content(65536):
        file.write(piece)
with requests.get(os.environ["url"], headers=headers, stream=True) as answer, open("requests.raw", "wb") as file:
    shutil.copyfileobj(answer.raw, file)
END
)
for client in wget aria2 requests.raw requests.content requests.stream; do
    alike=no; [ "$(sha256sum < "$T/got/$client")" != "$wanted" ] || alike=yes
    echo "$client: $(stat -c %s "$T/got/$client") bytes, the file's sha256: $alike"
    case $client in
        requests.content | requests.stream) [ $alike = no ] || fail "$client is the file" ;;
        *) [ $alike = yes ] || fail "$client is another file" ;;
    esac
done
