"""Package URLs: one word for a package of any distribution.

Source: purl-spec (ECMA-427), its types deb and rpm; os-release(5) for the vendor and the release.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

from pipeline.guest.inventory import Package

_TYPES = {"dpkg": "deb", "rpm": "rpm"}
_SOURCE_ARCHITECTURES = {"dpkg": "source", "rpm": "src"}


def purl(package: Package, manager: str, system: Mapping[str, str]) -> str:
    """Such as "pkg:deb/debian/curl@7.88.1-10?arch=amd64&distro=debian-12".

    manager: "dpkg" or "rpm". system: fields of os-release.
    """
    qualifiers = {"arch": package.architecture, "distro": _release(system)}
    if manager == "rpm":
        if package.source:
            qualifiers["upstream"] = f"{package.source}-{package.source_version}.src.rpm"
    elif package.source and (package.source, package.source_version) != package[:2]:
        same = package.source_version in ("", package.version)
        qualifiers["upstream"] = package.source + ("" if same else f"@{package.source_version}")
    return _purl(package.name, package.version, manager, system, qualifiers)


def source_purl(package: Package, manager: str, system: Mapping[str, str]) -> str:
    """The same of the source package that it was built from; "" where that is not known."""
    if not package.source:
        return ""
    qualifiers = {"arch": _SOURCE_ARCHITECTURES[manager], "distro": _release(system)}
    return _purl(package.source, package.source_version, manager, system, qualifiers)


def _purl(
    name: str,
    version: str,
    manager: str,
    system: Mapping[str, str],
    qualifiers: dict[str, str],
) -> str:
    if manager == "rpm":
        # An rpm's version is VERSION-RELEASE; the epoch stands apart.
        epoch, colon, rest = version.partition(":")
        if colon:
            version = rest
            qualifiers["epoch"] = epoch
    else:
        name = name.lower()
    # os-release(5): a system without an ID is "linux".
    vendor = system.get("ID", "linux").lower()
    words = "&".join(
        f"{key}={_word(qualifiers[key])}" for key in sorted(qualifiers) if qualifiers[key]
    )
    at = f"@{_word(version)}" if version else ""
    asked = f"?{words}" if words else ""
    return f"pkg:{_TYPES[manager]}/{_word(vendor)}/{_word(name)}{at}{asked}"


def _release(system: Mapping[str, str]) -> str:
    return "-".join(filter(None, (system.get("ID", ""), system.get("VERSION_ID", ""))))


def _word(text: str) -> str:
    """Percent-encoded; a colon stays, as the specification has it."""
    return quote(text, safe=":")
