"""What each remembered stage of a build depends on: inputs, templates, and the code behind it.

The install's own inputs are `install.identity`; it must obtain the tree to tell.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.core import settings
from pipeline.core.image import DiskImage
from pipeline.core.request import BuildRequest
from pipeline.host.fingerprint import stage_key

TEMPLATES = settings.PROJECT / "templates"
_HERE = Path(__file__).parent.parent
_IMAGE_CODE = ("convert", "disk", "guest")
_DISK_CODE = ("convert/assemble.py", "convert/grub.py", "convert/layout.py")


def image_key(request: BuildRequest, disk: DiskImage) -> str:
    """Key of the stage that makes the files from the disk."""
    recipe = request.recipe
    inputs = {
        "disk": _identity(disk),
        "root": request.root or recipe.root,
        "user": recipe.user,
        "backend": request.backend,
        "shrink": recipe.shrink,
        "command line": recipe.command_line if request.wants_disk else None,
    }
    code = [_HERE / name for name in _IMAGE_CODE]
    code += [path for path in sorted(TEMPLATES.iterdir()) if path.is_file()]
    if request.wants_disk:
        code += [_HERE / name for name in _DISK_CODE]
    return stage_key("image", inputs, code)


def check_key(name: str, request: BuildRequest, image: str) -> str:
    """Key of a boot check, "verify" or "verify-disk", of the files with the key `image`."""
    recipe = request.recipe
    inputs = {"image": image, "command line": recipe.command_line, "user": recipe.user}
    return stage_key(name, inputs, [_HERE / "verify"])


def _identity(disk: DiskImage) -> list[str | int]:
    # Not the path: a build directory that is moved keeps what it has.
    status = disk.path.stat()
    return [disk.path.name, status.st_dev, status.st_size, status.st_mtime_ns, status.st_ino]
