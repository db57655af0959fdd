"""The metadata service's answers, decision by decision."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.verify.metadata import (
    EC2_VERSIONS,
    NOVA_EC2_VERSIONS,
    OPENSTACK_VERSIONS,
    TOKEN,
    TOKEN_TTL,
    Faults,
    Instance,
    Key,
    Metadata,
    Tokens,
)

RSA = Key("first", "ssh-rsa AAAAB3 first")
ED25519 = Key("second", "ssh-ed25519 AAAAC3 second")
INSTANCE = Instance(keys=(RSA, ED25519), user_data=b"#!/bin/sh\n\xff")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def get(service: Metadata, path: str, **headers: str) -> tuple[int, str]:
    answer = service.answer("GET", path, {k.replace("_", "-"): v for k, v in headers.items()})
    return answer.status, answer.body.decode(errors="replace")


def token(service: Metadata, ttl: str = "60") -> str:
    answer = service.answer("PUT", "/latest/api/token", {TOKEN_TTL: ttl})
    assert answer.status == 200
    assert answer.headers == {TOKEN_TTL: ttl}
    return answer.body.decode()


def test_versions_are_listed_oldest_first() -> None:
    assert get(Metadata(INSTANCE, "absent"), "/")[1].split("\n") == [*NOVA_EC2_VERSIONS, "latest"]
    assert get(Metadata(INSTANCE), "/")[1].split("\n") == [*EC2_VERSIONS, "latest"]
    listed = get(Metadata(INSTANCE), "/openstack")[1].split("\n")
    assert listed == [*OPENSTACK_VERSIONS, "latest"]


@pytest.mark.parametrize("version", ["2009-04-04", "latest", "1.0"])
def test_every_version_has_the_tree(version: str) -> None:
    service = Metadata(INSTANCE, "absent")
    assert get(service, f"/{version}/") == (200, "dynamic/\nmeta-data/\nuser-data")
    assert get(service, f"/{version}/meta-data/instance-id")[1] == INSTANCE.instance_id


def test_unknown_places_are_404() -> None:
    service = Metadata(INSTANCE, "absent")
    for path in ("/2021-03-23/", "/1.1", "/latest/meta-data/nothing", "/openstack/2011-01-01"):
        assert get(service, path)[0] == 404
    assert get(service, "/latest/meta-data/instance-id/more")[0] == 404
    assert get(service, "/openstack/latest/meta_data.json/more")[0] == 404


def test_listings_mark_directories() -> None:
    lines = get(Metadata(INSTANCE), "/latest/meta-data/")[1].split("\n")
    assert "public-keys/" in lines
    assert "placement/" in lines
    assert "hostname" in lines
    assert get(Metadata(INSTANCE), "/latest/meta-data")[1].split("\n") == lines


def test_keys_are_listed_by_index_and_name() -> None:
    service = Metadata(INSTANCE)
    assert get(service, "/latest/meta-data/public-keys/")[1] == "0=first\n1=second"
    assert get(service, "/latest/meta-data/public-keys/1")[1] == "openssh-key"
    assert get(service, "/latest/meta-data/public-keys/1/openssh-key")[1] == ED25519.line + "\n"
    assert get(service, "/latest/meta-data/public-keys/2/openssh-key")[0] == 404
    assert service.key_served


def test_an_instance_without_keys_has_no_such_entry() -> None:
    service = Metadata(Instance(keys=()))
    assert "public-keys" not in get(service, "/latest/meta-data/")[1]
    assert get(service, "/latest/meta-data/public-keys/")[0] == 404
    assert get(service, "/latest/user-data")[0] == 404


def test_user_data_is_given_byte_for_byte() -> None:
    answer = Metadata(INSTANCE).answer("GET", "/latest/user-data", {})
    assert answer.body == INSTANCE.user_data
    assert answer.content_type == "application/octet-stream"


def test_openstack_metadata() -> None:
    service = Metadata(INSTANCE, "absent")
    meta = json.loads(get(service, "/openstack/latest/meta_data.json")[1])
    assert meta["uuid"] == INSTANCE.uuid
    assert meta["public_keys"] == {"first": RSA.line, "second": ED25519.line}
    assert meta["keys"][1] == {"data": ED25519.line, "name": "second", "type": "ssh"}
    network = json.loads(get(service, "/openstack/latest/network_data.json")[1])
    assert network["networks"][0]["link"] == network["links"][0]["id"]
    assert network["links"][0]["ethernet_mac_address"] == INSTANCE.mac


@pytest.mark.parametrize("ttl", ["1", "21600"])
def test_token_lifetimes_that_are_allowed(ttl: str) -> None:
    assert token(Metadata(INSTANCE), ttl)


@pytest.mark.parametrize("ttl", ["", "0", "21601", "-1", "1.5", "x", "9" * 30, "²"])
def test_token_lifetimes_that_are_refused(ttl: str) -> None:
    assert Metadata(INSTANCE).answer("PUT", "/latest/api/token", {TOKEN_TTL: ttl}).status == 400


def test_a_token_request_without_lifetime_or_through_a_proxy_is_refused() -> None:
    service = Metadata(INSTANCE)
    assert service.answer("PUT", "/latest/api/token", {}).status == 400
    forwarded = {TOKEN_TTL: "60", "X-Forwarded-For": "10.0.0.1"}
    assert service.answer("PUT", "/latest/api/token", forwarded).status == 403
    assert service.answer("GET", "/latest/api/token", {TOKEN_TTL: "60"}).status == 405


def test_where_tokens_are_required_nothing_is_given_without() -> None:
    service = Metadata(INSTANCE, "required")
    assert get(service, "/latest/meta-data/")[0] == 401
    assert get(service, "/")[0] == 401
    headers = {TOKEN.lower(): token(service)}
    assert service.answer("GET", "/latest/meta-data/", headers).status == 200


@pytest.mark.parametrize("mode", ["optional", "required"])
def test_a_wrong_or_expired_token_is_refused(mode: Tokens) -> None:
    clock = Clock()
    service = Metadata(INSTANCE, mode, clock=clock)
    mine = token(service, "60")
    assert service.answer("GET", "/latest/", {TOKEN: "guess"}).status == 401
    clock.now += 59.9
    assert service.answer("GET", "/latest/", {TOKEN: mine}).status == 200
    clock.now += 0.1
    assert service.answer("GET", "/latest/", {TOKEN: mine}).status == 401


def test_nova_has_no_token_api_and_ignores_the_header() -> None:
    service = Metadata(INSTANCE, "absent")
    assert service.answer("PUT", "/latest/api/token", {TOKEN_TTL: "60"}).status == 404
    assert service.answer("GET", "/latest/", {TOKEN: "anything"}).status == 200


def test_other_methods_are_refused() -> None:
    for method in ("POST", "DELETE", "OPTIONS"):
        assert Metadata(INSTANCE).answer(method, "/latest/", {}).status == 405


def test_faults() -> None:
    service = Metadata(INSTANCE, faults=Faults(unavailable=2, slow=3.0, garbage=1))
    path = "/latest/meta-data/public-keys/0/openssh-key"
    assert [service.answer("GET", path, {}).status for _ in range(2)] == [503, 503]
    garbage = service.answer("GET", path, {})
    assert (garbage.status, garbage.delay) == (200, 3.0)
    assert b"ssh-" not in garbage.body
    assert service.answer("GET", path, {}).body == (RSA.line + "\n").encode()
    missing = Metadata(INSTANCE, faults=Faults(no_keys=True))
    assert get(missing, path)[0] == 404
    assert get(missing, "/latest/meta-data/instance-id")[0] == 200
    assert not missing.key_served


def test_requests_are_noted_and_bounded() -> None:
    clock = Clock()
    service = Metadata(INSTANCE, "optional", clock=clock)
    assert service.quiet_seconds == float("inf")
    clock.now += 2
    service.answer("GET", "/latest/" + "x" * 500, {TOKEN: "t"})
    (seen,) = service.requests
    assert (seen.seconds, seen.method, seen.status, seen.token) == (2.0, "GET", 401, True)
    assert len(seen.path) == 200
    clock.now += 3
    assert service.quiet_seconds == 3


@given(st.text(max_size=60), st.dictionaries(st.text(max_size=10), st.text(max_size=10)))
def test_no_request_breaks_it(path: str, headers: dict[str, str]) -> None:
    for mode in ("absent", "optional", "required"):
        answer = Metadata(INSTANCE, mode).answer("GET", path, headers)
        assert answer.status in (200, 401, 404)
