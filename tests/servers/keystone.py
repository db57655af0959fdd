"""Keystone: users, projects, the catalogue, EC2 keys.

Two projects, "demo" and "other", with a member user of the same name and the password
`PASSWORD`; the user "admin" administers; "service" is what the other servers log in as.
"""

from __future__ import annotations

import base64
import json
import os
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

import requests

from tests.servers.environments import interpreter
from tests.servers.processes import START_SECONDS, Processes, free_port, run
from tests.servers.seeds import copy_seed

PASSWORD = "correct-horse-battery"
REGION = "RegionOne"
PROJECTS = ("demo", "other")
# Types the catalogue always lists; `start` gives those in use their address.
_SERVICES = ("image", "object-store", "volumev3")
_NOWHERE = "http://127.0.0.1:9/"
_SERVE = Path(__file__).parent / "inside" / "serve_wsgi.py"


def start(processes: Processes, directory: Path, port: int, services: Mapping[str, str]) -> str:
    """Start Keystone with the catalogue `services` (type -> URL); its URL."""
    copy_seed("keystone", "openstack", directory, _seed)
    url = f"http://127.0.0.1:{port}/v3"
    with closing(sqlite3.connect(directory / "keystone.sqlite")) as database, database:
        for kind, address in {"identity": url, **services}.items():
            database.execute(
                "update endpoint set url = ? where service_id in"
                " (select id from service where type = ?)",
                (address, kind),
            )
    _serve(processes, directory, port)
    return url


def ec2_keys(directory: Path) -> dict[str, dict[str, str]]:
    """Access and secret key of each project's user."""
    keys: dict[str, dict[str, str]] = json.loads((directory / "ec2-keys.json").read_text())
    return keys


def cloud_settings(url: str, user: str) -> dict[str, object]:
    """The entry of clouds.yaml for a user, whose project has the same name."""
    return {
        "region_name": REGION,
        "identity_api_version": 3,
        "auth": {
            "auth_url": url,
            "username": user,
            "password": PASSWORD,
            "project_name": user,
            "user_domain_id": "default",
            "project_domain_id": "default",
        },
    }


def service_login(url: str, section: str) -> str:
    """Configuration by which another server validates tokens here."""
    return dedent(f"""
        [{section}]
        auth_type = password
        auth_url = {url}
        www_authenticate_uri = {url}
        username = service
        password = {PASSWORD}
        project_name = service
        user_domain_id = default
        project_domain_id = default
        """)


@dataclass(frozen=True)
class Identity:
    """The Identity API v3, spoken without an OpenStack library."""

    url: str
    token: str
    user: str
    project: str

    @classmethod
    def log_in(cls, settings: Mapping[str, Any]) -> Identity:
        """settings: of `cloud_settings`."""
        auth = settings["auth"]
        domain = {"domain": {"id": "default"}}
        user = {"name": auth["username"], "password": auth["password"], **domain}
        body: Any = {
            "auth": {
                "identity": {"methods": ["password"], "password": {"user": user}},
                "scope": {"project": {"name": auth["project_name"], **domain}},
            }
        }
        url = auth["auth_url"]
        answer = requests.post(f"{url}/auth/tokens", json=body, timeout=START_SECONDS)
        answer.raise_for_status()
        token = answer.json()["token"]
        subject = answer.headers["X-Subject-Token"]
        return cls(url, subject, token["user"]["id"], token["project"]["id"])

    def call(self, method: str, path: str, **body: Any) -> Any:
        """The answer's only entry, if it has a body."""
        headers = {"X-Auth-Token": self.token}
        answer = requests.request(
            method,
            f"{self.url}/{path}",
            json=body or None,
            headers=headers,
            timeout=START_SECONDS,
        )
        answer.raise_for_status()
        return next(iter(answer.json().values())) if answer.content else {}

    def add_account(self, name: str, *roles: str) -> None:
        """A project, and a user of the same name with these roles in it."""
        project = self.call("POST", "projects", project={"name": name, "domain_id": "default"})
        user = {"name": name, "password": PASSWORD, "default_project_id": project["id"]}
        made = self.call("POST", "users", user={**user, "domain_id": "default"})
        known = {role["name"]: role["id"] for role in self.call("GET", "roles")}
        for role in roles:
            place = f"projects/{project['id']}/users/{made['id']}/roles"
            self.call("PUT", f"{place}/{known[role]}")


def _serve(processes: Processes, directory: Path, port: int) -> None:
    _configure(directory, port)
    processes.start(
        "keystone",
        [interpreter("openstack"), _SERVE, "keystone.wsgi.api:application", str(port)],
        {"OS_KEYSTONE_CONFIG_DIR": str(directory)},
    )
    processes.wait_for("keystone", f"http://127.0.0.1:{port}/v3")


def _configure(directory: Path, port: int) -> Path:
    # fernet_receipts and credential default to places outside; without the dictionary cache an
    # EC2 signature check takes seconds; four hash rounds are bcrypt's least.
    path = directory / "keystone.conf"
    path.write_text(
        dedent(f"""
        [DEFAULT]
        public_endpoint = http://127.0.0.1:{port}
        use_stderr = true
        [database]
        connection = sqlite:///{directory}/keystone.sqlite
        [fernet_tokens]
        key_repository = {directory}/fernet
        [fernet_receipts]
        key_repository = {directory}/fernet
        [credential]
        key_repository = {directory}/credential
        [identity]
        password_hash_rounds = 4
        [cache]
        enabled = true
        backend = oslo_cache.dict
        [oslo_messaging_notifications]
        driver = noop
        """)
    )
    return path


def _seed(directory: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/v3"
    for repository in ("fernet", "credential"):
        (directory / repository).mkdir(mode=0o700)
        for number in "01":
            key = directory / repository / number
            key.write_bytes(base64.urlsafe_b64encode(os.urandom(32)))
            key.chmod(0o600)
    manage = [
        str(interpreter("openstack").with_name("keystone-manage")),
        "--config-file",
        str(_configure(directory, port)),
    ]
    log = directory / "manage.log"
    run([*manage, "db_sync"], log)
    bootstrap = {
        "username": "admin",
        "password": PASSWORD,
        "project-name": "admin",
        "role-name": "admin",
        "service-name": "keystone",
        "region-id": REGION,
        "public-url": url,
        "internal-url": url,  # where the other servers validate tokens
    }
    options = [word for name, value in bootstrap.items() for word in (f"--bootstrap-{name}", value)]
    run([*manage, "bootstrap", *options], log)
    processes = Processes(directory, tied=True)
    try:
        _serve(processes, directory, port)
        _populate(directory, url)
    finally:
        processes.stop()


def _populate(directory: Path, url: str) -> None:
    admin = Identity.log_in(cloud_settings(url, "admin"))
    for name in PROJECTS:
        admin.add_account(name, "member", "reader")
    admin.add_account("service", "admin", "service")
    for kind in _SERVICES:
        service = admin.call("POST", "services", service={"name": kind, "type": kind})
        endpoint = {"service_id": service["id"], "interface": "public", "url": _NOWHERE}
        admin.call("POST", "endpoints", endpoint={**endpoint, "region_id": REGION})
    keys = {}
    for name in PROJECTS:
        user = Identity.log_in(cloud_settings(url, name))
        path = f"users/{user.user}/credentials/OS-EC2"
        credential = user.call("POST", path, tenant_id=user.project)
        keys[name] = {word: credential[word] for word in ("access", "secret")}
    (directory / "ec2-keys.json").write_text(json.dumps(keys))
