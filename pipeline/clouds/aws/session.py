"""Sessions, endpoints, time-outs and errors for everything that speaks an AWS API.

Profiles, AWS_* variables and endpoints are botocore's own (AWS SDKs and Tools Reference Guide,
"Service-specific endpoints"); the variables of the euca2ools world (EC2_URL, S3_URL,
EC2_ACCESS_KEY, EC2_SECRET_KEY) fill what those leave open. docs/how-to/clouds-ec2.md has them all.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pipeline.core import settings
from pipeline.core.errors import BusyError, CloudError, InputError
from pipeline.core.events import Progress
from pipeline.host.locks import exclusive

if TYPE_CHECKING:
    import boto3
    from botocore.loaders import Loader
    from types_boto3_ebs.client import EBSClient
    from types_boto3_ec2.client import EC2Client
    from types_boto3_s3.client import S3Client

Addressing = Literal["auto", "path", "virtual"]

CONNECT_SECONDS = 10.0  # a TCP and TLS handshake across the world takes under one
READ_SECONDS = 60.0  # a part or block is answered within seconds; botocore's own default
# Waits of up to 1, 2, 4, 8, 16 and 20 s (botocore's standard mode, full jitter): a throttled
# account or a restarted endpoint is back within that, a dead one is reported in under a minute.
ATTEMPTS = 7

_CONNECTIONS = 64  # pooled a client: AWS sizes EBS direct for some 100 an account
_FALLBACK_REGION = "us-east-1"  # the region of endpoints that have no notion of one

_NEXT_STEPS: tuple[tuple[str, str], ...] = (  # error code (a pattern) -> what to do
    (
        r"AuthFailure|InvalidAccessKeyId|SignatureDoesNotMatch|InvalidClientTokenId|401",
        "Check the access key and secret of the profile (aws configure, or EC2_ACCESS_KEY and"
        " EC2_SECRET_KEY) and that the region is the endpoint's own",
    ),
    (r"Expired|TokenRefreshRequired", "Log in again: the credentials have expired"),
    (r"Skewed|RequestExpired", "Set this host's clock: the endpoint's differs too much"),
    (
        r"UnauthorizedOperation|AccessDenied|OptInRequired|403",
        "Give the account the permissions listed in docs/how-to/clouds-ec2.md",
    ),
    (r"NoSuchBucket|InvalidBucketName", "Choose another bucket, or create it"),
    (r"BucketAlreadyExists", "Bucket names are shared by all accounts: choose another"),
    (
        r"LimitExceeded|Quota|413|EntityTooLarge|507",
        "Ask for a higher quota, or withdraw older generations",
    ),
    (r"Throttl|SlowDown|429|503", "The endpoint is busy: try again later"),
    (
        r"UnknownParameter|InvalidParameter|Unsupported|NotImplemented|501|InvalidAction",
        "This endpoint does not support the call: see docs/how-to/clouds-ec2.md for what it needs",
    ),
    (r"5\d\d|Internal", "The endpoint failed: try again, and ask its operator if it persists"),
)


@dataclass(frozen=True)
class Site:
    """Where one EC2-compatible cloud is and as whom to speak to it; made by `open_site`.

    word: the user's word for the cloud, "ec2:PROFILE", used in every error.
    endpoints: service name ("ec2", "s3", "ebs") -> URL where botocore is not to decide itself.
    settings: the profile's `image_pipeline_*` keys, without that prefix.
    """

    word: str
    session: boto3.Session
    endpoints: Mapping[str, str]
    settings: Mapping[str, str]
    addressing: Addressing = "auto"
    read_seconds: float = READ_SECONDS

    def ec2(self, *, retry: bool = True, region: str = "") -> EC2Client:
        """The EC2 API; `retry` False for calls that must not be sent twice unnoticed."""
        client: EC2Client = self._client("ec2", retry=retry, region=region)
        return client

    def s3(self) -> S3Client:
        """The S3 API. Other clouds than AWS rarely have a DNS name a bucket: by path there."""
        client: S3Client = self._client("s3", style=self.addressing)
        if self.addressing == "auto" and not is_aws(client.meta.endpoint_url):
            client = self._client("s3", style="path")
        return client

    def ebs(self) -> EBSClient:
        """The EBS direct API. Adaptive: when blocks are throttled, all threads slow down."""
        client: EBSClient = self._client("ebs", mode="adaptive")
        return client

    def _client(
        self,
        service: str,
        *,
        retry: bool = True,
        region: str = "",
        style: Addressing = "auto",
        mode: Literal["standard", "adaptive"] = "standard",
    ) -> Any:
        from botocore.config import Config

        config = Config(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=self.read_seconds,
            retries={"mode": mode, "total_max_attempts": ATTEMPTS if retry else 1},
            max_pool_connections=_CONNECTIONS,
            s3={"addressing_style": style},
            # Other S3 services reject AWS's newer trailing checksums; Content-MD5 works anywhere.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        with step(self.word, f"reach the {service} service of", self.word):
            return self.session.client(
                service,  # type: ignore[call-overload] # one of the three above
                endpoint_url=self.endpoints.get(service),
                region_name=region or self.session.region_name or _FALLBACK_REGION,
                config=config,
            )


def open_site(
    word: str,
    profile: str,
    *,
    region: str = "",
    addressing: Addressing = "auto",
    read_seconds: float = READ_SECONDS,
    environ: Mapping[str, str] = os.environ,
) -> Site:
    """The cloud of an AWS profile; "" is botocore's default chain, then the EC2_* variables.

    No request is sent. InputError when the profile does not exist.
    """
    import boto3
    import botocore.session
    from botocore.exceptions import ProfileNotFound

    core = botocore.session.Session(profile=profile or None)
    core.register_component("data_loader", _models())
    try:
        scope = core.get_scoped_config()
    except ProfileNotFound as error:
        raise InputError(
            "use the cloud",
            word,
            why=f"there is no AWS profile {profile or environ.get('AWS_PROFILE', '')}",
            next_step="Create it with `aws configure --profile NAME`, or choose one of: "
            + (", ".join(core.available_profiles) or "(none)"),
        ) from error
    keys: dict[str, str] = {}
    if not profile and "AWS_ACCESS_KEY_ID" not in environ and environ.get("EC2_ACCESS_KEY"):
        keys["aws_access_key_id"] = environ["EC2_ACCESS_KEY"]
        keys["aws_secret_access_key"] = environ.get("EC2_SECRET_KEY", "")
    session = boto3.Session(
        botocore_session=core,
        region_name=region or environ.get("AWS_REGION") or None,
        **keys,
    )
    prefix = "image_pipeline_"
    return Site(
        word,
        session,
        endpoint_overrides(environ),
        {k.removeprefix(prefix): str(v) for k, v in scope.items() if k.startswith(prefix)},
        addressing,
        read_seconds,
    )


@functools.cache
def _models() -> Loader:
    """The services' descriptions, shared by all sessions: reading EC2's takes a second."""
    from botocore.loaders import create_loader

    return create_loader()


def check_credentials(site: Site) -> None:
    """CloudError when there is nothing to sign requests with."""
    with step(site.word, "read the credentials for", site.word):
        if site.session.get_credentials() is not None:
            return
    raise CloudError(
        "use the cloud",
        site.word,
        why="no credentials were found",
        next_step="Set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or"
        " EC2_ACCESS_KEY and EC2_SECRET_KEY",
    )


def endpoint_overrides(environ: Mapping[str, str]) -> dict[str, str]:
    """EC2_URL and S3_URL as endpoints, unless AWS's own variables name one for that service."""
    overrides = {}
    for service, variable in (("ec2", "EC2_URL"), ("s3", "S3_URL")):
        own = (f"AWS_ENDPOINT_URL_{service.upper()}", "AWS_ENDPOINT_URL")
        if environ.get(variable) and not any(environ.get(name) for name in own):
            overrides[service] = environ[variable]
    return overrides


@contextlib.contextmanager
def one_at_a_time(what: str, progress: Progress) -> Iterator[None]:
    """Let uploads from this host that would make the same images take turns."""
    name = hashlib.sha256(what.encode()).hexdigest()[:32]
    path = settings.cache_dir() / "locks" / f"{name}.lock"
    with contextlib.ExitStack() as turn:
        try:
            turn.enter_context(exclusive(path, what))
        except BusyError as error:
            with progress.task(f"Waiting: {error.why}", unit="steps") as meter:
                while not _enter(turn, exclusive(path, what, wait=1.0)):
                    meter.advance(0)
        yield


def _enter(turn: contextlib.ExitStack, lock: contextlib.AbstractContextManager[None]) -> bool:
    try:
        turn.enter_context(lock)
    except BusyError:
        return False
    return True


def is_aws(endpoint: str) -> bool:
    """Whether an endpoint URL is Amazon's own."""
    return re.match(r"https?://[^/]+\.amazonaws\.com(\.cn)?(:\d+)?(/|$)", endpoint) is not None


def code_of(error: Exception) -> str:
    """The service's error code ("NoSuchBucket"), or its HTTP status; "" for other errors."""
    response = getattr(error, "response", None) or {}
    code = str(response.get("Error", {}).get("Code", ""))
    return code or str(response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))


def status_of(error: Exception) -> int:
    """The HTTP status of a service's answer; 0 when there was none."""
    response = getattr(error, "response", None) or {}
    return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0)


def is_transient(error: Exception) -> bool:
    """Whether sending the call again later may work: no answer, throttled, or a server's fault."""
    from botocore.exceptions import ClientError, ConnectionError, HTTPClientError
    from botocore.parsers import ResponseParserError

    if isinstance(error, ClientError):
        throttled = re.search(r"Throttl|RequestLimitExceeded|SlowDown", code_of(error))
        return bool(throttled) or status_of(error) == 429 or status_of(error) >= 500
    return isinstance(error, ConnectionError | HTTPClientError | ResponseParserError)


def explain(error: Exception) -> tuple[str, str]:
    """Why a call failed and what to do next, for a PipelineError."""
    from botocore.exceptions import (
        ClientError,
        ConnectTimeoutError,
        EndpointConnectionError,
        ReadTimeoutError,
        SSLError,
    )
    from botocore.parsers import ResponseParserError

    if isinstance(error, ResponseParserError):
        # Load balancers and proxies answer for a service that is down or busy.
        return (
            "something between here and the service answered in its place, with no answer of EC2",
            "Check the endpoint URL and proxies, and try again later",
        )
    if isinstance(error, ClientError):
        code, message = code_of(error), error.response.get("Error", {}).get("Message", "")
        status = status_of(error)
        key = f"{code} {status}"
        hint = next((text for pattern, text in _NEXT_STEPS if re.search(pattern, key)), "")
        return f"it answered {status} {code}: {message or 'no message'}", hint
    if isinstance(error, SSLError):
        return str(error), "Set AWS_CA_BUNDLE to the authority of the endpoint's certificate"
    if isinstance(error, EndpointConnectionError | ConnectTimeoutError | ReadTimeoutError):
        return str(error), "Check the endpoint URL, the network and proxies, and try again"
    return str(error), "Try again; what was finished is kept"


@contextlib.contextmanager
def step(cloud: str, attempted: str, subject: str = "") -> Iterator[None]:
    """Turn botocore's errors into a CloudError that says which step on which cloud failed."""
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError

    try:
        yield
    except (BotoCoreError, ClientError, ResponseParserError) as error:
        why, hint = explain(error)
        where = f"{subject} on {cloud}" if subject and subject != cloud else cloud
        raise CloudError(attempted, where, why=why, next_step=hint) from error
