"""The metadata service a guest finds at 169.254.169.254: what is answered, without any I/O.

Shapes: Amazon EC2 User Guide, "Use instance metadata" (versions, listings, IMDSv2 tokens: PUT
/latest/api/token, lifetime 1 to 21,600 seconds in a header, 400 without it, 401 for a missing or
expired token where tokens are required, 403 for a PUT that came through a proxy) and Nova's
"Metadata service" user guide (/openstack by dated version, meta_data.json, network_data.json).
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Tokens = Literal["absent", "optional", "required"]
"""absent: Nova, which has no token API. optional: EC2's IMDSv1 and v2. required: v2 only."""

NOVA_EC2_VERSIONS = (
    "1.0",
    "2007-01-19",
    "2007-03-01",
    "2007-08-29",
    "2007-10-10",
    "2007-12-15",
    "2008-02-01",
    "2008-09-01",
    "2009-04-04",
)
EC2_VERSIONS = (
    *NOVA_EC2_VERSIONS,
    "2011-01-01",
    "2011-05-01",
    "2012-01-12",
    "2014-02-25",
    "2014-11-05",
    "2015-10-20",
    "2016-04-19",
    "2016-06-30",
    "2016-09-02",
    "2018-03-28",
    "2018-08-17",
    "2018-09-24",
    "2019-10-01",
    "2020-10-27",
    "2021-01-03",
    "2021-03-23",
    "2021-07-15",
)
OPENSTACK_VERSIONS = (
    "2012-08-10",
    "2013-04-04",
    "2013-10-17",
    "2015-10-15",
    "2016-06-30",
    "2016-10-06",
    "2017-02-22",
    "2018-08-27",
    "2020-10-14",
)
TOKEN_TTL = "X-aws-ec2-metadata-token-ttl-seconds"  # noqa: S105 # a header's name
TOKEN = "X-aws-ec2-metadata-token"  # noqa: S105 # a header's name
MAX_TTL = 21600
_MAX_TOKENS = 1000  # a guest that asks for more gets its oldest forgotten
_GARBAGE = b"<html><body>Please sign in to the network</body></html>\n\x00\xff\xfe"


@dataclass(frozen=True)
class Key:
    """A public key as `authorized_keys` has it, under the name the cloud knows it by."""

    name: str
    line: str


@dataclass(frozen=True)
class Instance:
    """What the service says of the guest. user_data None means the user gave none (404).

    architecture: in EC2's words ("x86_64", "arm64").
    """

    keys: tuple[Key, ...]
    uuid: str = "5f0c4a52-7d0e-4c19-9c3c-8a3f6d0c7b11"
    hostname: str = "boot-check.novalocal"
    local_ipv4: str = "169.254.169.15"
    mac: str = "fa:16:3e:00:00:01"
    user_data: bytes | None = None
    architecture: str = "x86_64"

    @property
    def instance_id(self) -> str:
        """EC2's form of the id, as Nova derives one: "i-" and eight hex digits."""
        return f"i-{hashlib.sha256(self.uuid.encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class Faults:
    """What the service does wrong on purpose.

    unavailable: how many requests get 503 first. slow: seconds before every answer.
    no_keys: public-keys is 404. garbage: how many key requests get 200 with a sign-in page.
    """

    unavailable: int = 0
    slow: float = 0.0
    no_keys: bool = False
    garbage: int = 0


@dataclass(frozen=True)
class Answer:
    """One HTTP response. delay: seconds to wait before it is sent."""

    status: int
    body: bytes = b""
    content_type: str = "text/plain"
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0


@dataclass(frozen=True)
class Request:
    """One request that was answered: `seconds` after the service began."""

    seconds: float
    method: str
    path: str
    status: int
    token: bool


class Metadata:
    """The service's state: tokens given out, requests seen. Safe to use from several threads."""

    def __init__(
        self,
        instance: Instance,
        tokens: Tokens = "optional",
        faults: Faults | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.instance, self.mode, self.faults = instance, tokens, faults or Faults()
        self._clock = clock
        self._begun = clock()
        self._last = float("-inf")
        self._expiry: dict[str, float] = {}
        self._requests: list[Request] = []
        self._unavailable, self._garbage = self.faults.unavailable, self.faults.garbage
        self._lock = threading.Lock()

    @property
    def requests(self) -> tuple[Request, ...]:
        """The first requests, oldest first."""
        with self._lock:
            return tuple(self._requests)

    @property
    def key_served(self) -> bool:
        """Whether the guest was given a key."""
        return any(r.status == 200 and _is_key_path(r.path) for r in self.requests)

    @property
    def quiet_seconds(self) -> float:
        """How long ago the last request came; infinite when none did."""
        with self._lock:
            return self._clock() - self._last

    def answer(self, method: str, target: str, headers: Mapping[str, str]) -> Answer:
        """The response to one request. headers: names in any case."""
        wanted = {name.lower(): value for name, value in headers.items()}
        path = target.partition("?")[0]
        with self._lock:
            self._last = self._clock()
            answer = self._decide(method, path, wanted)
            if len(self._requests) < 10_000:  # enough for any boot, bounded for a hostile one
                self._requests.append(
                    Request(
                        self._clock() - self._begun,
                        method,
                        path[:200],
                        answer.status,
                        TOKEN.lower() in wanted,
                    )
                )
        return answer

    def _decide(self, method: str, path: str, headers: Mapping[str, str]) -> Answer:
        if self._unavailable > 0:
            self._unavailable -= 1
            return _error(503, "Service Unavailable", self.faults.slow)
        if path.rstrip("/") == "/latest/api/token" and self.mode != "absent":
            return self._token(method, headers)
        if path.rstrip("/") == "/latest/api/token":
            return _error(404, "Not Found", self.faults.slow)
        if method not in ("GET", "HEAD"):
            return _error(405, "Method Not Allowed", self.faults.slow)
        refused = self._refuse(headers)
        if refused:
            return refused
        if _is_key_path(path):
            if self.faults.no_keys:
                return _error(404, "Not Found", self.faults.slow)
            if self._garbage > 0:
                self._garbage -= 1
                return Answer(200, _GARBAGE, "text/html", delay=self.faults.slow)
        found = lookup(self.instance, self.mode, path)
        if found is None:
            return _error(404, "Not Found", self.faults.slow)
        body, content_type = found
        return Answer(200, body, content_type, delay=self.faults.slow)

    def _token(self, method: str, headers: Mapping[str, str]) -> Answer:
        if method != "PUT":
            return _error(405, "Method Not Allowed", self.faults.slow)
        # A forwarded PUT would hand the token to whoever sits behind an open proxy.
        if "x-forwarded-for" in headers:
            return _error(403, "Forbidden", self.faults.slow)
        text = headers.get(TOKEN_TTL.lower(), "")
        if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= MAX_TTL):
            return _error(400, "Bad Request", self.faults.slow)
        token = secrets.token_urlsafe(40) + "=="
        while len(self._expiry) >= _MAX_TOKENS:
            del self._expiry[next(iter(self._expiry))]
        self._expiry[token] = self._clock() + int(text)
        return Answer(200, token.encode(), headers={TOKEN_TTL: text}, delay=self.faults.slow)

    def _refuse(self, headers: Mapping[str, str]) -> Answer | None:
        token = headers.get(TOKEN.lower())
        if self.mode == "absent" or (token is None and self.mode == "optional"):
            return None
        if token is not None and self._clock() < self._expiry.get(token, float("-inf")):
            return None
        return _error(401, "Unauthorized", self.faults.slow)


def lookup(instance: Instance, tokens: Tokens, path: str) -> tuple[bytes, str] | None:
    """Body and content type of what lies at `path`, or None."""
    parts = [part for part in path.split("/") if part]
    if parts[:1] == ["openstack"]:
        return _openstack(instance, parts[1:])
    versions = NOVA_EC2_VERSIONS if tokens == "absent" else EC2_VERSIONS
    if not parts:
        return "\n".join((*versions, "latest")).encode(), "text/plain"
    if parts[0] not in versions and parts[0] != "latest":
        return None
    node: Any = _ec2_tree(instance)
    for part in parts[1:]:
        if not isinstance(node, dict) or part not in node:
            return None
        node = node[part]
    if isinstance(node, dict):
        return _listing(node, instance, parts[1:]).encode(), "text/plain"
    if parts[1:] == ["user-data"]:
        return node, "application/octet-stream"
    if parts[1:] == ["dynamic", "instance-identity", "document"]:
        return node.encode(), "application/json"
    return node.encode(), "text/plain"


def _listing(node: Mapping[str, Any], instance: Instance, parts: list[str]) -> str:
    if parts == ["meta-data", "public-keys"]:
        return "\n".join(f"{n}={key.name}" for n, key in enumerate(instance.keys))
    return "\n".join(name + "/" * isinstance(node[name], dict) for name in sorted(node))


def _ec2_tree(instance: Instance) -> dict[str, Any]:
    number = instance.instance_id.removeprefix("i-")
    placement = {"availability-zone": "nova", "region": "nova"}
    interface = {
        "device-number": "0",
        "local-hostname": instance.hostname,
        "local-ipv4s": instance.local_ipv4,
        "mac": instance.mac,
        "subnet-ipv4-cidr-block": "169.254.169.0/24",
    }
    meta: dict[str, Any] = {
        "ami-id": f"ami-{number}",
        "ami-launch-index": "0",
        "ami-manifest-path": "(unknown)",
        "block-device-mapping": {"ami": "vda", "root": "/dev/vda"},
        "hostname": instance.hostname,
        "instance-action": "none",
        "instance-id": instance.instance_id,
        "instance-type": "m1.small",
        "kernel-id": f"aki-{number}",
        "local-hostname": instance.hostname,
        "local-ipv4": instance.local_ipv4,
        "mac": instance.mac,
        "network": {"interfaces": {"macs": {instance.mac: interface}}},
        "placement": placement,
        "public-hostname": instance.hostname,
        "public-ipv4": "",
        "ramdisk-id": f"ari-{number}",
        "reservation-id": f"r-{number}",
        "security-groups": "default",
    }
    if instance.keys:
        meta["public-keys"] = {
            str(n): {"openssh-key": key.line + "\n"} for n, key in enumerate(instance.keys)
        }
    document = {
        "architecture": instance.architecture,
        "availabilityZone": placement["availability-zone"],
        "imageId": meta["ami-id"],
        "instanceId": instance.instance_id,
        "instanceType": meta["instance-type"],
        "kernelId": meta["kernel-id"],
        "pendingTime": "2011-05-24T00:00:00Z",
        "privateIp": instance.local_ipv4,
        "ramdiskId": meta["ramdisk-id"],
        "region": placement["region"],
        "version": "2017-09-30",
    }
    tree: dict[str, Any] = {
        "dynamic": {"instance-identity": {"document": json.dumps(document, indent=2)}},
        "meta-data": meta,
    }
    if instance.user_data is not None:
        tree["user-data"] = instance.user_data
    return tree


def _openstack(instance: Instance, parts: list[str]) -> tuple[bytes, str] | None:
    if not parts:
        return "\n".join((*OPENSTACK_VERSIONS, "latest")).encode(), "text/plain"
    if parts[0] not in (*OPENSTACK_VERSIONS, "latest"):
        return None
    files: dict[str, tuple[bytes, str]] = {
        "meta_data.json": (_json(_openstack_meta(instance)), "application/json"),
        "network_data.json": (_json(_openstack_network(instance)), "application/json"),
        "password": (b"", "text/plain"),
        "vendor_data.json": (b"{}", "application/json"),
        "vendor_data2.json": (b"{}", "application/json"),
    }
    if instance.user_data is not None:
        files["user_data"] = (instance.user_data, "application/octet-stream")
    if len(parts) == 1:
        return "\n".join(sorted(files)).encode(), "text/plain"
    return files.get(parts[1]) if len(parts) == 2 else None


def _openstack_meta(instance: Instance) -> dict[str, Any]:
    seed = hashlib.shake_256(instance.uuid.encode()).digest(512)
    return {
        "availability_zone": "nova",
        "devices": [],
        "hostname": instance.hostname,
        "keys": [{"data": k.line, "name": k.name, "type": "ssh"} for k in instance.keys],
        "launch_index": 0,
        "meta": {},
        "name": instance.hostname.partition(".")[0],
        "project_id": hashlib.sha256(b"project").hexdigest()[:32],
        "public_keys": {k.name: k.line for k in instance.keys},
        "random_seed": base64.b64encode(seed).decode(),
        "uuid": instance.uuid,
    }


def _openstack_network(instance: Instance) -> dict[str, Any]:
    link = {
        "ethernet_mac_address": instance.mac,
        "id": "tap0",
        "mtu": 1500,
        "type": "ovs",
        "vif_id": instance.uuid,
    }
    network = {"id": "network0", "link": "tap0", "network_id": instance.uuid, "type": "ipv4_dhcp"}
    return {"links": [link], "networks": [network], "services": []}


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def _is_key_path(path: str) -> bool:
    """Whether the path carries keys or their list, in EC2's or OpenStack's tree."""
    parts = [part for part in path.split("/") if part]
    return parts[1:3] == ["meta-data", "public-keys"]


def _error(status: int, title: str, delay: float) -> Answer:
    page = (
        '<?xml version="1.0" encoding="iso-8859-1"?>\n'
        f"<html><head><title>{status} - {title}</title></head>"
        f"<body><h1>{status} - {title}</h1></body></html>\n"
    )
    return Answer(status, page.encode(), "text/html", delay=delay)
