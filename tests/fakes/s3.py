"""S3 (2006-03-01): whole objects, multipart uploads, listings in short pages; path style.

Stricter than S3 in one thing: an object without Content-MD5 is refused.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from tests.fakes.protocol import Answer, Ids, Refused, Request

PAGE = 3  # keys of a listing: real services send up to 1000, which no test would reach
LEAST_PART = 5 << 20  # bytes; S3's limit for all parts but the last
ACLS = ("private", "public-read", "aws-exec-read", "authenticated-read", "bucket-owner-read")
_OBJECT_QUERIES: tuple[set[str], ...] = (
    set(),
    {"uploads"},
    {"uploadId"},
    {"partNumber", "uploadId"},
)


@dataclass
class Object:
    """A stored object."""

    data: bytes
    etag: str
    acl: str = "private"
    metadata: dict[str, str] = field(default_factory=dict)
    modified: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass
class Upload:
    """An unfinished multipart upload."""

    bucket: str
    key: str
    parts: dict[int, Object] = field(default_factory=dict)


class S3Service:
    """All buckets. acls: False makes the service refuse canned ACLs, as many clouds do."""

    def __init__(self) -> None:
        self.buckets: dict[str, dict[str, Object]] = {}
        self.uploads: dict[str, Upload] = {}
        self.acls = True
        self._ids = Ids()

    def operation(self, request: Request) -> str:
        """The name of the API call."""
        bucket, key = _split(request)
        names = {n for n in request.query if n not in ("x-id", "encoding-type", "max-parts")}
        if not key:
            if "uploads" in names:
                return "ListMultipartUploads"
            listing = request.method == "GET" and request.query.get("list-type") == "2"
            calls = {"HEAD": "HeadBucket", "PUT": "CreateBucket"}
            if bucket and (listing or request.method in calls):
                return "ListObjectsV2" if listing else calls[request.method]
        else:
            calls = {
                "PUT": "UploadPart" if "partNumber" in names else "PutObject",
                "GET": "ListParts" if "uploadId" in names else "GetObject",
                "HEAD": "HeadObject",
                "DELETE": "DeleteObject",
                "POST": "CreateMultipartUpload"
                if "uploads" in names
                else "CompleteMultipartUpload",
            }
            if request.method in calls and names in _OBJECT_QUERIES:
                return calls[request.method]
        raise Refused(501, "NotImplemented", f"{request.method} {request.path} {names}")

    def answer(self, operation: str, request: Request) -> Answer:
        """Do it."""
        bucket, key = _split(request)
        if operation == "CreateBucket":
            if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", bucket):
                raise Refused(400, "InvalidBucketName", bucket)
            self.buckets.setdefault(bucket, {})
            return Answer()
        if bucket not in self.buckets:
            raise Refused(404, "NoSuchBucket", f"there is no bucket {bucket}")
        objects = self.buckets[bucket]
        match operation:
            case "HeadBucket":
                return Answer()
            case "ListObjectsV2":
                return self._list(objects, request)
            case "PutObject":
                acl = request.headers.get("x-amz-acl", "private")
                if acl not in ACLS or (not self.acls and acl != "private"):
                    raise Refused(400, "InvalidArgument", f"the ACL {acl} is unknown")
                metadata = {
                    name.removeprefix("x-amz-meta-"): value
                    for name, value in request.headers.items()
                    if name.startswith("x-amz-meta-")
                }
                objects[key] = Object(request.body, _checked(request), acl, metadata)
                return Answer(headers={"ETag": f'"{objects[key].etag}"'})
            case "GetObject" | "HeadObject":
                found = objects.get(key)
                if found is None:
                    raise Refused(404, "NoSuchKey", f"there is no object {key}")
                headers = {f"x-amz-meta-{k}": v for k, v in found.metadata.items()}
                headers |= {"ETag": f'"{found.etag}"', "Content-Length": str(len(found.data))}
                return Answer(200, found.data if operation == "GetObject" else b"", headers)
            case "DeleteObject":
                objects.pop(key, None)
                return Answer(204)
            case _:
                return self._multipart(operation, request, bucket, key)

    def _list(self, objects: dict[str, Object], request: Request) -> Answer:
        prefix = request.query.get("prefix", "")
        after = request.query.get("continuation-token", "")
        keys = sorted(k for k in objects if k.startswith(prefix) and k > after)
        entries = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(objects[key].data)}</Size>"
            f'<ETag>"{objects[key].etag}"</ETag>'
            f"<LastModified>{objects[key].modified:%Y-%m-%dT%H:%M:%S}.000Z</LastModified></Contents>"
            for key in keys[:PAGE]
        )
        more = len(keys) > PAGE
        last = escape(keys[PAGE - 1]) if more else ""
        token = f"<NextContinuationToken>{last}</NextContinuationToken>"
        return Answer(
            200,
            f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>"
            f"{token if more else ''}{entries}</ListBucketResult>".encode(),
            {"Content-Type": "application/xml"},
        )

    def _multipart(self, operation: str, request: Request, bucket: str, key: str) -> Answer:
        xml = {"Content-Type": "application/xml"}
        if operation == "CreateMultipartUpload":
            upload_id = self._ids.next("upload")
            self.uploads[upload_id] = Upload(bucket, key)
            return Answer(
                200,
                f"<InitiateMultipartUploadResult><UploadId>{upload_id}</UploadId>"
                "</InitiateMultipartUploadResult>".encode(),
                xml,
            )
        if operation == "ListMultipartUploads":
            entries = "".join(
                f"<Upload><Key>{escape(upload.key)}</Key><UploadId>{name}</UploadId></Upload>"
                for name, upload in self.uploads.items()
                if upload.bucket == bucket
                and upload.key.startswith(request.query.get("prefix", ""))
            )
            return Answer(
                200,
                "<ListMultipartUploadsResult><IsTruncated>false</IsTruncated>"
                f"{entries}</ListMultipartUploadsResult>".encode(),
                xml,
            )
        upload_id = request.query.get("uploadId", "")
        upload = self.uploads.get(upload_id)
        if upload is None or (upload.bucket, upload.key) != (bucket, key):
            raise Refused(404, "NoSuchUpload", upload_id)
        if operation == "UploadPart":
            number = int(request.query["partNumber"])
            if not 1 <= number <= 10_000:
                raise Refused(400, "InvalidArgument", f"part {number}")
            upload.parts[number] = Object(request.body, _checked(request))
            return Answer(headers={"ETag": f'"{upload.parts[number].etag}"'})
        if operation == "ListParts":
            entries = "".join(
                f"<Part><PartNumber>{number}</PartNumber><Size>{len(part.data)}</Size>"
                f'<ETag>"{part.etag}"</ETag></Part>'
                for number, part in sorted(upload.parts.items())
            )
            return Answer(
                200,
                "<ListPartsResult><IsTruncated>false</IsTruncated>"
                f"{entries}</ListPartsResult>".encode(),
                xml,
            )
        self.buckets[bucket][key] = _assembled(upload, request.body)
        del self.uploads[upload_id]
        return Answer(200, b"<CompleteMultipartUploadResult/>", xml)


def _assembled(upload: Upload, body: bytes) -> Object:
    document = ElementTree.fromstring(body)
    named = [
        (int(part.findtext("{*}PartNumber") or 0), (part.findtext("{*}ETag") or "").strip('"'))
        for part in document.iterfind("{*}Part")
    ]
    if not named or named != sorted(named):
        raise Refused(400, "InvalidPartOrder", "the parts are not in order")
    for number, etag in named:
        part = upload.parts.get(number)
        if part is None or part.etag != etag:
            raise Refused(400, "InvalidPart", f"part {number} was not uploaded so")
        if len(part.data) < LEAST_PART and number != named[-1][0]:
            raise Refused(400, "EntityTooSmall", f"part {number} has {len(part.data)} bytes")
    data = b"".join(upload.parts[number].data for number, _ in named)
    digests = b"".join(bytes.fromhex(etag) for _, etag in named)
    return Object(data, f"{hashlib.md5(digests).hexdigest()}-{len(named)}")


def _checked(request: Request) -> str:
    """The MD5 of the body, hex; it must be what Content-MD5 says."""
    digest = hashlib.md5(request.body).digest()
    given = request.headers.get("content-md5")
    if given is None:
        raise Refused(400, "InvalidRequest", "Content-MD5 is missing")
    if given != base64.b64encode(digest).decode():
        raise Refused(400, "BadDigest", "the body does not match Content-MD5")
    return digest.hex()


def _split(request: Request) -> tuple[str, str]:
    bucket, _, key = request.path.lstrip("/").partition("/")
    return bucket, key
