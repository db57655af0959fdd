"""What is not tried by this command but read: guests that long tests booted, servers and clients.

guests.json and servers.json are lists of records. The long tests that boot guests add theirs to
the first when RECORD_GUESTS=1 is set; a record takes the place of that test's earlier one of the
guest.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from pipeline.core.resources import PROJECT
from pipeline.core.settings import cache_dir
from pipeline.host.locks import exclusive
from tests.compatibility.document import cells

GUESTS = Path(__file__).with_name("guests.json")
SERVERS = Path(__file__).with_name("servers.json")
NO_RECORD = "no record"
"""The outcome of a test that exists, of whose runs nothing was kept."""
_HEAD = ("what", "versions", "when", "by", "outcome", "seen")


@dataclass(frozen=True)
class Record:
    """One thing that was tried elsewhere. date: ISO, or "" where no run is recorded."""

    what: str
    versions: str
    date: str
    by: str
    outcome: str
    words: str


@dataclass(frozen=True)
class Locked:
    """A server or client that tests use. lock: below setup/; tests: files that start or call it."""

    what: str
    package: str
    lock: str
    tests: tuple[str, ...]


_OPENSTACK, _EC2API, _TESTS, _RUN = (
    "servers-openstack.lock",
    "servers-ec2api.lock",
    "requirements-test.lock",
    "requirements.lock",
)
_GLANCE, _LOGIN, _EC2, _EBS = (
    f"integration/test_{name}.py" for name in ("glance", "glance_login", "ec2", "ebs")
)
LOCKED = (
    Locked("Glance", "glance", _OPENSTACK, (_GLANCE, "contract/glance_site.py")),
    Locked("Glance's stores", "glance-store", _OPENSTACK, (_GLANCE,)),
    Locked("Keystone", "keystone", _OPENSTACK, (_LOGIN,)),
    Locked("keystonemiddleware", "keystonemiddleware", _OPENSTACK, ("servers/glance.py",)),
    Locked("Swift, with its S3 API", "swift", _OPENSTACK, (_EC2, "servers/swift.py")),
    Locked("ec2-api", "ec2-api", _EC2API, (_EC2, "contract/ec2_site.py")),
    Locked("moto's server (EC2 and S3)", "moto", _TESTS, (_EC2,)),
    Locked("openstacksdk (client)", "openstacksdk", _RUN, (_GLANCE,)),
    Locked("keystoneauth1 (client)", "keystoneauth1", _RUN, (_LOGIN,)),
    Locked("boto3 (client)", "boto3", _RUN, (_EC2, _EBS)),
)
_ABOUT_GUESTS = """\
Guests are installed or made, customised by the pipeline and booted by its boot check in the long
tests, all of them emulated: none of this was seen under KVM. This command boots none; it shows what
`tests/compatibility/guests.json` has, to which those tests add when `RECORD_GUESTS=1` is set. Where
the outcome is "no record", the test exists, and of its runs nothing was written down here. Fedora,
CentOS Stream, Rocky Linux and AlmaLinux were never installed or booted (their mirrors could not be
reached); [recipes](recipes.md) tells what was checked of them, and of one install of Debian 13 by
its own installer.
"""
_ABOUT_SERVERS = """\
What the tests start or call, in the versions that the lock files fix; the tests named are run by
`./invoke check` (not run here: it is what runs the tests). AWS itself, Eucalyptus and euca2ools
were never tried; strict stand-ins (`tests/fakes`) take the place of EC2, EBS and S3 as AWS has
them.
"""
_BY_HAND = """\
### By hand

No test does these; nothing in this part is renewed by a command.
"""


def read(path: Path) -> list[Record]:
    """The records of a file. Raises TypeError for one with other fields."""
    return [Record(**entry) for entry in json.loads(path.read_text())]


def record(
    what: str, versions: str, by: str, outcome: str, words: str, path: Path = GUESTS
) -> None:
    """Add what a test saw today, or put it in the place of that test's earlier record of the guest.

    Nothing is written unless RECORD_GUESTS=1 is set: tests leave the checkout as it is.
    """
    if os.environ.get("RECORD_GUESTS") != "1":
        return
    today = datetime.now(UTC).date().isoformat()
    new = Record(what, versions, today, by, outcome, words)
    with exclusive(cache_dir() / "tests" / "records.lock", "the records of guests", wait=60):
        kept = [old for old in read(path) if (old.what, old.by) != (what, by)]
        text = json.dumps([asdict(each) for each in [*kept, new]], indent=1, ensure_ascii=False)
        partial = path.with_name(f"{path.name}.partial")
        partial.write_text(text + "\n")
        partial.replace(path)


def guests() -> str:
    """The section on guests."""
    return f"{_ABOUT_GUESTS}\n{_table(GUESTS)}"


def servers() -> str:
    """The section on servers and clients."""
    locked = cells(
        ("what", "version", "fixed by", "used by"),
        (
            (
                each.what,
                _installed(each),
                f"setup/{each.lock}",
                ", ".join(f"tests/{test}" for test in each.tests),
            )
            for each in LOCKED
        ),
    )
    return f"{_ABOUT_SERVERS}\n{locked}\n{_BY_HAND}\n{_table(SERVERS)}"


def _table(path: Path) -> str:
    return cells(
        _HEAD,
        (
            (each.what, each.versions, each.date or "-", each.by, each.outcome, each.words)
            for each in read(path)
        ),
    )


def _installed(each: Locked) -> str:
    """The locked version, and the installed one of this environment where it is another."""
    text = (PROJECT / "setup" / each.lock).read_text()
    found = re.search(rf"^{re.escape(each.package)}==(\S+)", text, re.MULTILINE)
    if found is None:
        raise ValueError(f"{each.lock} has no {each.package}")
    try:
        here = metadata.version(each.package) if each.lock in {_TESTS, _RUN} else found[1]
    except metadata.PackageNotFoundError:
        here = "not installed"
    return found[1] if here == found[1] else f"{found[1]} ({here} on this host)"
