"""Logging in to a real Keystone: rights, projects to share with, and nothing secret in words."""

from __future__ import annotations

import json
import ssl
import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pipeline.clouds.glance.api import Patience
from pipeline.clouds.glance.cloud import GlanceCloud
from pipeline.clouds.protocol import PublishOptions
from pipeline.core.errors import CloudError, InputError
from pipeline.core.events import QuietProgress
from pipeline.core.image import Image
from tests.contract.glance_site import RawGlance
from tests.contract.site import make_images
from tests.servers.fixtures import fresh_account
from tests.servers.keystone import Identity, cloud_settings
from tests.servers.openstack_cloud import Endpoints

pytestmark = pytest.mark.integration

QUICK = Patience(tries=2, first=0.1, most=0.5, poll=0.2)
SHARED: Final = "shared"


class Bench:
    """A clouds.yaml with one entry, "mine"."""

    def __init__(self, endpoints: Endpoints, directory: Path) -> None:
        self.endpoints = endpoints
        self.config = directory / "clouds.yaml"
        self.mine = fresh_account(endpoints)
        self.admin = Identity.log_in(cloud_settings(endpoints.keystone, "admin"))
        self.use(self.mine)

    def use(self, settings: dict[str, Any]) -> GlanceCloud:
        self.config.write_text(json.dumps({"clouds": {"mine": settings}}))
        return GlanceCloud("glance:mine", "mine", QUICK)

    def account(self, *roles: str) -> dict[str, Any]:
        name = f"test-{uuid.uuid4().hex[:12]}"
        self.admin.add_account(name, *roles)
        return cloud_settings(self.endpoints.keystone, name)


@pytest.fixture
def bench(openstack_cloud: Endpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    bench = Bench(openstack_cloud, tmp_path)
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(bench.config))
    monkeypatch.setenv("IMAGE_PIPELINE_CACHE", str(tmp_path / "cache"))
    return bench


@pytest.fixture
def images(tmp_path: Path) -> Image:
    return make_images(tmp_path / "build")


def members(bench: Bench, image_id: str) -> list[str]:
    raw = RawGlance(bench.endpoints.glance, Identity.log_in(bench.mine).token)
    found = raw.call("GET", f"images/{image_id}/members").json()["members"]
    return [member["member_id"] for member in found]


def test_a_project_of_ones_own_is_found_by_its_name(bench: Bench, images: Image) -> None:
    cloud, own = bench.use(bench.mine), Identity.log_in(bench.mine)
    options = PublishOptions(visibility=SHARED, members=(bench.mine["auth"]["project_name"],))
    cloud.probe(images, options)
    found = cloud.publish(images, options, QuietProgress())
    assert members(bench, found.machine_id) == [own.project]


def test_who_may_look_projects_up_shares_by_name(bench: Bench, images: Image) -> None:
    other = bench.account("member")
    theirs = Identity.log_in(other).project
    bench.mine = cloud_settings(bench.endpoints.keystone, "admin")
    cloud = bench.use(bench.mine)
    named = PublishOptions(visibility=SHARED, members=(other["auth"]["project_name"],))
    found = cloud.publish(images, named, QuietProgress())
    assert members(bench, found.machine_id) == [theirs]
    assert cloud.plan(images, named) == []
    assert cloud.plan(images, PublishOptions(visibility=SHARED, members=(theirs,))) == []
    for typo in ("no-such-project", uuid.uuid4().hex):
        asked = PublishOptions(visibility=SHARED, members=(typo,))
        for ask in (cloud.probe, cloud.plan):
            with pytest.raises(InputError, match=f"{typo}.*no such project"):
                ask(images, asked)
    cloud.withdraw(found)


def test_who_may_not_look_projects_up_gives_the_id(bench: Bench, images: Image) -> None:
    other = bench.account("member")
    theirs = Identity.log_in(other).project
    cloud = bench.use(bench.mine)
    with pytest.raises(InputError, match="may not look projects up") as caught:
        cloud.probe(
            images, PublishOptions(visibility=SHARED, members=(other["auth"]["project_name"],))
        )
    assert "openstack project show" in caught.value.next_step
    found = cloud.publish(
        images, PublishOptions(visibility=SHARED, members=(theirs,)), QuietProgress()
    )
    assert members(bench, found.machine_id) == [theirs]


def test_the_check_names_what_a_login_cannot(bench: Bench) -> None:
    assert bench.use(bench.mine).check().startswith("logged in; images are at http://")
    with pytest.raises(CloudError, match="only role in this project is reader"):
        bench.use(bench.account("reader")).check()

    def without_project(settings: dict[str, Any]) -> dict[str, Any]:
        auth = settings["auth"]
        return {name: value for name, value in auth.items() if not name.startswith("project")}

    system: dict[str, Any] = {**cloud_settings(bench.endpoints.keystone, "admin")}
    system["auth"] = {**without_project(system), "system_scope": "all"}
    with pytest.raises(CloudError, match="of no project"):
        bench.use(system).check()


def test_a_password_in_a_url_is_masked(
    bench: Bench, images: Image, capfd: pytest.CaptureFixture[str]
) -> None:
    url = "http://user:never-shown@127.0.0.1:9/v3"
    cloud = bench.use({**bench.mine, "auth": {**bench.mine["auth"], "auth_url": url}})
    for ask in (cloud.check, lambda: cloud.probe(images, PublishOptions())):
        with pytest.raises(CloudError, match=r"127\.0\.0\.1:9") as caught:
            ask()
        assert "never-shown" not in str(caught.value)
        assert "user:****@" in str(caught.value)
    assert "discover" not in capfd.readouterr().err


@pytest.fixture
def untrusted(tmp_path: Path) -> Iterator[str]:
    """A server with a certificate that it signed itself; its URL."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "server.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"https://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_check_sees_an_untrusted_certificate_of_the_image_service(
    bench: Bench, untrusted: str
) -> None:
    cloud = bench.use({**bench.mine, "image_endpoint_override": untrusted})
    with pytest.raises(CloudError, match="certificate") as caught:
        cloud.check()
    assert "cacert" in caught.value.next_step
