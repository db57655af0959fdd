"""Glance under the contract, alone and behind Keystone; observed with plain HTTP requests."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from pipeline.clouds.glance.api import Patience
from pipeline.clouds.glance.cloud import GlanceCloud
from tests.contract.site import Seen, Site
from tests.servers.fixtures import LoneGlance, fresh_account, token_settings
from tests.servers.keystone import Identity
from tests.servers.openstack_cloud import Endpoints

_ROLES = {"aki": "kernel", "ari": "ramdisk", "ami": "machine"}
_SECONDS = 120.0


@dataclass(frozen=True)
class RawGlance:
    """The Image API as anybody speaks it."""

    url: str
    token: str

    def call(self, method: str, path: str, **words: Any) -> requests.Response:
        headers = {"X-Auth-Token": self.token, **words.pop("headers", {})}
        response = requests.request(
            method, f"{self.url}/v2/{path}", headers=headers, timeout=_SECONDS, **words
        )
        response.raise_for_status()
        return response

    def images(self, **filters: str) -> list[dict[str, Any]]:
        images: list[dict[str, Any]] = self.call(
            "GET", "images", params={"limit": "1000", **filters}
        ).json()["images"]
        return images

    def image(self, image_id: str) -> dict[str, Any]:
        image: dict[str, Any] = self.call("GET", f"images/{image_id}").json()
        return image

    def seen(self, *, hidden: bool) -> list[Seen]:
        found = self.images()
        if hidden:
            found += self.images(os_hidden="true")
        return [
            Seen(
                image["id"],
                _ROLES.get(image["container_format"], ""),
                image.get("kernel_id") or "",
                image.get("ramdisk_id") or "",
            )
            for image in found
        ]

    def data(self, image_id: str) -> bytes:
        answer = self.call("GET", f"images/{image_id}/file")
        assert answer.status_code == 200, (answer, self.image(image_id))
        return answer.content

    def add(self, name: str, data: bytes = b"somebody else's", **properties: Any) -> str:
        record = {"name": name, "container_format": "ami", "disk_format": "ami", **properties}
        image_id: str = self.call("POST", "images", json=record).json()["id"]
        headers = {"Content-Type": "application/octet-stream"}
        self.call("PUT", f"images/{image_id}/file", data=data, headers=headers)
        return image_id


def glance_site(
    kind: str,
    raw: RawGlance,
    clouds: dict[str, Any],
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Site:
    """clouds: entries "mine" and "stranger" of a clouds.yaml."""
    directory.mkdir(parents=True, exist_ok=True)
    config = directory / "clouds.yaml"
    config.write_text(json.dumps({"clouds": clouds}))
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(config))
    return Site(
        kind=kind,
        word="glance:mine",
        open=lambda: GlanceCloud("glance:mine", "mine", Patience(first=0.1, most=1.0, poll=0.2)),
        visible=lambda: raw.seen(hidden=False),
        everything=lambda: raw.seen(hidden=True),
        data=raw.data,
        foreign=raw.add,
        stranger=lambda: GlanceCloud("glance:stranger", "stranger", Patience(tries=2, first=0.1)),
        environment={"OS_CLIENT_CONFIG_FILE": str(config)},
    )


def lone_site(request: pytest.FixtureRequest, directory: Path) -> Site:
    """Glance with fixed tokens: a project of its own for each test."""
    server: LoneGlance = request.getfixturevalue("lone_glance")
    token = f"user:{uuid.uuid4().hex}:member,reader"
    clouds = {
        "mine": token_settings(server.url, token),
        "stranger": token_settings(server.url, "nobody"),
    }
    monkeypatch = request.getfixturevalue("monkeypatch")
    return glance_site("glance", RawGlance(server.url, token), clouds, directory, monkeypatch)


def keystone_site(request: pytest.FixtureRequest, directory: Path) -> Site:
    """Glance behind Keystone: a new project and user for each test."""
    endpoints: Endpoints = request.getfixturevalue("openstack_cloud")
    mine = fresh_account(endpoints)
    stranger = {**mine, "auth": {**mine["auth"], "password": "wrong"}}
    raw = RawGlance(endpoints.glance, Identity.log_in(mine).token)
    monkeypatch = request.getfixturevalue("monkeypatch")
    clouds = {"mine": mine, "stranger": stranger}
    return glance_site("glance-keystone", raw, clouds, directory, monkeypatch)
