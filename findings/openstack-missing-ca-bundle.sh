#!/usr/bin/env bash
# SUMMARY: A `cacert` that does not exist is neither an SSL error nor one of keystoneauth's or requests' own
#   errors, and it stays hidden while the first service asked speaks plain HTTP.
# GUESS: An OpenStack client whose clouds.yaml names a missing file of certificates fails with keystoneauth's
#   SSLError (a ClientException), as it does for a wrong one; or at the latest with requests' RequestException;
#   and a successful login shows that the file is there.
# SEEN: keystoneauth passes on a bare OSError that requests raises before it connects: `except ClientException`
#   and `except RequestException` let it through. A file that is there and holds nothing usable does become
#   SSLError. Through http:// the setting is not looked at: a login works, and the first https:// request fails.
# VERSIONS: keystoneauth1 5.18.1 with requests 2.34.2
# SOURCE: requests/adapters.py, HTTPAdapter.cert_verify; keystoneauth1/session.py, Session._send_request
# WHY: Clouds with a private authority are the rule on-premises. A pipeline that turns the libraries' errors into
#   words ends in a traceback on the build host that lacks the file, and a check that only logs in (Keystone by
#   http inside, images by https) says that all is well.
set -eu
fail() { echo "NO LONGER SO: $*" >&2; exit 1; }
T=$(mktemp -d); trap 'rm -rf "$T"' EXIT
python3 -m venv "$T/v"
"$T/v/bin/pip" -qq install keystoneauth1==5.18.1 requests==2.34.2
"$T/v/bin/python" - "$T" <<'PYTHON' || fail "another error than a bare OSError, or another moment"
import sys, threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
import requests
from keystoneauth1 import exceptions, session
from keystoneauth1.noauth import NoAuth

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("Content-Length", "2"); self.end_headers(); self.wfile.write(b"ok")
    def log_message(self, *words):
        pass

server = HTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
plain = f"http://127.0.0.1:{server.server_port}/"
missing, empty = Path(sys.argv[1], "missing.pem"), Path(sys.argv[1], "empty.pem")
empty.write_text("")

def ask(url, authority):
    made = session.Session(auth=NoAuth(endpoint=url), verify=str(authority))
    try:
        return made.get(url, authenticated=False, connect_retries=0).text
    except Exception as error:
        return error

found = {
    "http, missing file": ask(plain, missing),
    "https, missing file": ask("https://127.0.0.1:9/", missing),
    "https, useless file": ask(plain.replace("http:", "https:"), empty),
}
for case, result in found.items():
    print(f"{case}: {type(result).__name__}: {result}")
bare = found["https, missing file"]
assert found["http, missing file"] == "ok"
assert type(bare) is OSError and "invalid path" in str(bare)
assert not isinstance(bare, (exceptions.ClientException, requests.RequestException))
assert isinstance(found["https, useless file"], exceptions.ClientException)
PYTHON
