"""Profiles, endpoints and errors of AWS-like clouds; no request is sent."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import (
    ClientError,
    EndpointConnectionError,
    NoCredentialsError,
    ReadTimeoutError,
)

from pipeline.clouds.aws.ebs_backed import open_ebs
from pipeline.clouds.aws.s3_backed import open_ec2
from pipeline.clouds.aws.session import (
    READ_SECONDS,
    check_credentials,
    endpoint_overrides,
    explain,
    is_aws,
    is_transient,
    open_site,
    step,
)
from pipeline.core.errors import CloudError, InputError


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither this user's AWS configuration nor a metadata service."""
    for name in os.environ:
        if name.startswith(("AWS_", "EC2_", "S3_", "EUCALYPTUS_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def client_error(code: str, status: int) -> ClientError:
    answer: Any = {
        "Error": {"Code": code, "Message": "because"},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return ClientError(answer, "Call")


@pytest.mark.parametrize(
    ("environ", "overrides"),
    [
        ({}, {}),
        ({"EC2_URL": "http://e"}, {"ec2": "http://e"}),
        ({"EC2_URL": "http://e", "S3_URL": "http://s"}, {"ec2": "http://e", "s3": "http://s"}),
        ({"EC2_URL": "http://e", "AWS_ENDPOINT_URL": "http://a"}, {}),
        (
            {"EC2_URL": "http://e", "S3_URL": "http://s", "AWS_ENDPOINT_URL_EC2": "http://a"},
            {"s3": "http://s"},
        ),
    ],
)
def test_aws_variables_come_before_those_of_euca2ools(
    environ: dict[str, str], overrides: dict[str, str]
) -> None:
    assert endpoint_overrides(environ) == overrides


@pytest.mark.parametrize(
    ("url", "aws"),
    [
        ("https://ec2.us-east-1.amazonaws.com", True),
        ("https://ec2.cn-north-1.amazonaws.com.cn/", True),
        ("https://amazonaws.com.example.org", False),
        ("http://127.0.0.1:8773/services/ec2.amazonaws.com", False),
    ],
)
def test_amazon_is_told_from_others(url: str, aws: bool) -> None:
    assert is_aws(url) is aws


def test_a_profile_carries_endpoints_and_settings(tmp_path: Path) -> None:
    (tmp_path / "config").write_text(
        "[profile euca]\nregion = here\nendpoint_url = http://cloud:8773\n"
        "aws_access_key_id = a\naws_secret_access_key = b\n"
        "image_pipeline_bucket = images\nimage_pipeline_certificate = /cert.pem\n"
    )
    cloud = open_ec2("euca")
    assert (cloud.name, cloud.bucket, cloud.certificate) == (
        "ec2:euca",
        "images",
        Path("/cert.pem"),
    )
    assert cloud.site.ec2().meta.endpoint_url == "http://cloud:8773"
    assert cloud.site.ec2().meta.region_name == "here"
    assert open_ebs("euca").bucket == "images"


def test_the_variables_of_euca2ools_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "EC2_URL": "http://ec2:1",
        "S3_URL": "http://s3:2",
        "EC2_ACCESS_KEY": "access",
        "EC2_SECRET_KEY": "secret",
        "EC2_BUCKET": "images",
        "EUCALYPTUS_CERT": "/cloud.pem",
        "EC2_USER_ID": "123456789012",
    }.items():
        monkeypatch.setenv(name, value)
    cloud = open_ec2("")
    assert (cloud.user, cloud.certificate) == ("123456789012", Path("/cloud.pem"))
    assert cloud.site.s3().meta.endpoint_url == "http://s3:2"
    assert cloud.site.ec2().meta.endpoint_url == "http://ec2:1"
    credentials = cloud.site.session.get_credentials()
    assert credentials is not None
    assert (credentials.access_key, credentials.secret_key) == ("access", "secret")


@pytest.mark.parametrize(
    ("environ", "words"),
    [({}, "EC2_BUCKET"), ({"EC2_BUCKET": "b"}, "EUCALYPTUS_CERT")],
)
def test_a_missing_setting_is_named(
    environ: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=words):
        open_ec2("")


def test_an_unknown_profile_is_named() -> None:
    with pytest.raises(InputError, match="there is no AWS profile nowhere"):
        open_ebs("nowhere")


def test_a_prefix_with_a_slash_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EC2_BUCKET", "b")
    with pytest.raises(InputError, match="root"):
        open_ec2("", prefix="a/b", certificate=Path("c"))


def test_no_credentials_are_told_before_any_request() -> None:
    with pytest.raises(CloudError, match="no credentials were found"):
        check_credentials(open_site("ebs", ""))


def test_every_client_has_a_read_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    site = open_site("ebs", "", region="x-1")
    for client in (site.ec2(), site.ec2(retry=False), site.s3(), site.ebs()):
        assert config_of(client).read_timeout == READ_SECONDS
        assert config_of(client).connect_timeout <= READ_SECONDS
    assert config_of(site.ec2(retry=False)).retries["total_max_attempts"] == 1


def config_of(client: Any) -> Any:
    return client.meta.config  # the stubs leave its attributes out


def test_other_clouds_are_addressed_by_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    styles = {}
    for name, url in {"aws": "", "other": "https://s3.example.org"}.items():
        monkeypatch.setenv("S3_URL", url)
        client = open_site("ec2", "", region="us-east-1").s3()
        styles[name] = config_of(client).s3["addressing_style"]
    assert styles == {"aws": "auto", "other": "path"}


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (client_error("InternalError", 500), True),
        (client_error("SlowDown", 503), True),
        (client_error("RequestLimitExceeded", 400), True),
        (client_error("TooManyRequests", 429), True),
        (client_error("InvalidParameterValue", 400), False),
        (client_error("AccessDenied", 403), False),
        (EndpointConnectionError(endpoint_url="http://x"), True),
        (ReadTimeoutError(endpoint_url="http://x"), True),
        (NoCredentialsError(), False),
    ],
)
def test_only_what_may_pass_is_tried_again(error: Exception, transient: bool) -> None:
    assert is_transient(error) is transient


@pytest.mark.parametrize(
    ("code", "status", "words"),
    [
        ("AuthFailure", 401, "access key"),
        ("SignatureDoesNotMatch", 403, "access key"),
        ("ExpiredToken", 400, "Log in again"),
        ("RequestTimeTooSkewed", 403, "clock"),
        ("UnauthorizedOperation", 403, "permissions"),
        ("AccessDenied", 403, "permissions"),
        ("NoSuchBucket", 404, "another bucket"),
        ("SnapshotLimitExceeded", 400, "quota"),
        ("413", 413, "quota"),
        ("Throttling", 400, "busy"),
        ("SlowDown", 503, "busy"),
        ("UnknownParameter", 400, "does not support"),
        ("InternalError", 500, "its operator"),
    ],
)
def test_each_refusal_has_a_next_step(code: str, status: int, words: str) -> None:
    why, next_step = explain(client_error(code, status))
    assert code in why
    assert words in next_step


def test_a_failing_step_names_the_call_the_subject_and_the_cloud() -> None:
    with (
        pytest.raises(CloudError, match=r"Cannot upload images/x on ec2:p: .* SlowDown"),
        step("ec2:p", "upload", "images/x"),
    ):
        raise client_error("SlowDown", 503)
