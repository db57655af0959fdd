"""SELinux labels as libselinux tells them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pipeline.disk.filesystems.status import Kind
from pipeline.guest.customize.selinux import Policy
from tests.unit.guest.customize.test_selinux import CONTEXTS

pytestmark = pytest.mark.integration

PATHS = [
    "/",
    "/.autorelabel",
    "/etc",
    "/etc/fstab",
    "/etc/a.conf",
    "/etc/rc.d/rc.local",
    "/etc/rc.local",
    "/etc/rcxlocal",
    "/etc/ssh/ssh_host_rsa_key.pub",
    "/etc/ssh/ssh_host_ed25519_key",
    "/etc/machine-id",
    "/etc/x12y",
    "/etc/x1234",
    "/etc/systemd/system/rc-local.service",
    "/dev/null",
    "/usr/lib/x",
    "/usr/lib/systemd/system/a.service",
    "/lib/systemd/system/a.service",
    "/home/me/.ssh/authorized_keys",
    "/var/home/me/.ssh",
    "/new/line\nfeed",
]
KINDS: dict[Kind, str] = {"file": "file", "directory": "dir", "symlink": "symlink"}
SUBSTITUTIONS = "/lib /usr/lib\n/var/home /home\n"


@pytest.mark.parametrize("kind", KINDS)
def test_libselinux_labels_alike(tmp_path: Path, kind: Kind) -> None:
    """matchpathcon(8) reads the same file; it says <<none>> where there is no label."""
    contexts = tmp_path / "file_contexts"
    contexts.write_text(CONTEXTS.replace("malformed line with too many words\n", ""))
    (tmp_path / "file_contexts.subs_dist").write_text(SUBSTITUTIONS)
    policy = Policy([CONTEXTS], [SUBSTITUTIONS])
    argv = ["matchpathcon", "-n", "-f", str(contexts), "-m", KINDS[kind], *PATHS]
    theirs = subprocess.run(argv, capture_output=True, text=True, check=False).stdout.splitlines()
    ours = [(policy.label(path, kind) or b"<<none>>\0").decode()[:-1] for path in PATHS]
    assert dict(zip(PATHS, ours, strict=True)) == dict(zip(PATHS, theirs, strict=True))
