"""What Glance and its libraries answer when something fails, as errors that say what to do."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from typing import NoReturn

from keystoneauth1 import exceptions as auth_errors
from openstack import exceptions as sdk_errors

from pipeline.core.errors import CloudError
from pipeline.core.passwords import shortened, without_passwords

LIBRARY_ERRORS = (auth_errors.ClientException, sdk_errors.SDKException, OSError)
"""What the libraries raise; OSError for a file of certificates that is missing."""
TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
"""HTTP statuses after which the same request may work."""
_WORDS = 300  # characters of a cloud's own words that an error repeats


class StatusError(CloudError):
    """A refusal with its HTTP status, for callers that know what to do with some."""

    def __init__(self, attempted: str, cloud: str, status: int, words: str) -> None:
        why, next_step = explain(status, words)
        super().__init__(attempted, cloud, why=why, next_step=next_step)
        self.status = status


class TransientError(Exception):
    """A failure worth another try. final: what to raise when there is none left."""

    def __init__(self, final: CloudError, asked: float | None = None) -> None:
        super().__init__(str(final))
        self.final, self.asked = final, asked


def raise_for(error: Exception, attempted: str, cloud: str) -> NoReturn:
    """An error of the libraries' as TransientError or CloudError."""
    status = getattr(error, "http_status", None) or getattr(error, "status_code", None)
    if isinstance(status, int) and status >= 400:
        refusal = StatusError(attempted, cloud, status, str(error))
        if status in TRANSIENT:
            asked = getattr(error, "retry_after", None)
            raise TransientError(refusal, float(asked) if asked else None) from error
        raise refusal from error
    why = clean(str(error))
    if isinstance(error, auth_errors.SSLError) or _is_bundle(error):
        raise CloudError(
            attempted, cloud, why=why, next_step="See `cacert` and `verify` in clouds.yaml"
        ) from error
    if isinstance(error, auth_errors.ConnectionError | auth_errors.DiscoveryFailure):
        final = CloudError(
            attempted, cloud, why=why, next_step="See whether the cloud is up, and run it again"
        )
        raise TransientError(final) from error
    raise CloudError(
        attempted, cloud, why=why, next_step="See the cloud's entry in clouds.yaml"
    ) from error


def _is_bundle(error: Exception) -> bool:
    """Whether a file of certificates is missing: requests says so with a bare OSError."""
    return isinstance(error, OSError) and "certificate" in str(error)


def explain(status: int, words: str) -> tuple[str, str]:
    """(why, next step) for a refusal, from its status and the cloud's own words."""
    said = clean(words)
    why, next_step = _MEANINGS.get(
        status, ("it refused", "If that goes on, show it to the cloud's operator")
    )
    return f"{why} (HTTP {status}{': ' + said if said else ''})", next_step


_MEANINGS: Mapping[int, tuple[str, str]] = {
    400: ("it finds the request wrong", "See which property or format it names"),
    401: ("it does not accept the credentials", "Renew them in clouds.yaml or the environment"),
    403: ("its policy forbids this", "Ask for the role, or use other options"),
    404: ("it has no such thing", "See whether somebody deleted the image meanwhile, run it again"),
    409: ("the image is in use or in another state", "Run it again when that is over"),
    413: ("a quota or size limit is exceeded", "Delete images there or ask for more quota"),
    415: ("it does not take this kind of content", "Ask its operator which formats are allowed"),
    429: ("it gets too many requests", "Run it again later"),
}


def clean(words: str) -> str:
    """An error document as one short line: Glance sends HTML, JSON or text."""
    text = words.strip()
    try:
        document = json.loads(text)
        if isinstance(document, dict):
            inner = next(iter(document.values()))
            text = str(inner.get("message", text) if isinstance(inner, dict) else inner)
    except (ValueError, StopIteration):
        text = re.sub(r"<(head|title).*?</\1>|<[^>]*>", " ", text, flags=re.DOTALL)
    words = " ".join(html.unescape(text).split())
    return shortened(without_passwords(words), _WORDS).rstrip(".")


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds; the date form is left out, as a wrong clock would make it hours."""
    value = headers.get("Retry-After", "")
    return float(value) if re.fullmatch(r"\d{1,6}", value) else None
