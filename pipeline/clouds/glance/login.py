"""Logging in to a cloud of clouds.yaml: its image service, its project, who may be shared with."""

from __future__ import annotations

import logging
import re
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urlencode

from openstack.config import OpenStackConfig
from openstack.warnings import RemovedInSDK60Warning

from pipeline.clouds.glance.api import GlanceApi, Patience
from pipeline.clouds.glance.errors import LIBRARY_ERRORS, raise_for
from pipeline.core.errors import CloudError, InputError
from pipeline.core.events import Progress
from pipeline.core.passwords import without_passwords

_WARNINGS = threading.Lock()  # catch_warnings changes the whole process
_AUTH_SECONDS = 60.0  # Keystone may wait for LDAP; no configured cloud was slower than this
_PROJECT_ID = re.compile(r"[0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@contextmanager
def connect(
    name: str, cloud: str, patience: Patience, progress: Progress | None = None
) -> Iterator[GlanceApi]:
    """An authenticated session with a cloud of clouds.yaml, or with that of the environment."""
    region = cloud_region(name, cloud)
    session = region.get_session()
    if session.timeout is None:
        session.timeout = min(_AUTH_SECONDS, patience.read)
    # It warns of what the error says in full a moment later.
    logging.getLogger("keystoneauth").setLevel(logging.ERROR)
    try:
        api = GlanceApi(name, "", session, patience, progress)
        _authenticate(region, session, api)
        yield api
    finally:
        session.session.close()


def cloud_region(name: str, cloud: str) -> Any:
    """The configuration of a cloud; InputError when there is none or it is incomplete."""
    try:
        # openstacksdk 4 warns of an option of its own in every configuration it loads.
        with _WARNINGS, warnings.catch_warnings():
            warnings.simplefilter("ignore", RemovedInSDK60Warning)
            return OpenStackConfig().get_one(cloud=cloud or None)
    except LIBRARY_ERRORS as error:
        raise InputError(
            "use the cloud",
            name,
            why=without_passwords(str(error)),
            next_step="See clouds.yaml, and OS_CLIENT_CONFIG_FILE if it lies elsewhere",
        ) from error


def _authenticate(region: Any, session: Any, api: GlanceApi) -> None:
    """Fill in the URL of the Image API v2, our project ("" where the cloud has none) and roles."""
    attempted = "log in to"
    place = {
        "service_type": "image",
        "interface": region.get_interface("image"),
        "region_name": region.get_region_name("image"),
        "endpoint_override": region.get_endpoint("image"),
    }

    def log_in() -> Any:
        try:
            session.get_auth_headers()
            data = session.auth.get_endpoint_data(session, discover_versions=False, **place)
            api.project = session.get_project_id() or ""
            if hasattr(session.auth, "get_access"):  # plugins for clouds without Keystone have none
                api.roles = tuple(session.auth.get_access(session).role_names or ())
                api.identity = _identity(region, session)
        except LIBRARY_ERRORS as error:
            raise_for(error, attempted, api.name)
        return data

    data = api.persist(log_in)
    if data is None or not data.url:
        raise CloudError(
            attempted,
            api.name,
            why="its catalogue has no image service",
            next_step="See `region_name` and `interface` in clouds.yaml",
        )
    url = data.url.rstrip("/")
    api.url = url if re.search(r"/v2(\.\d+)?$", url) else f"{url}/v2"


def _identity(region: Any, session: Any) -> str:
    """Keystone's URL without a version: that of the catalogue, else the one logged in at."""
    place = {
        "service_type": "identity",
        "interface": region.get_interface("identity"),
        "region_name": region.get_region_name("identity"),
    }
    data = session.auth.get_endpoint_data(session, discover_versions=False, **place)
    url = data.url if data is not None and data.url else session.auth.auth_url
    return re.sub(r"/v(2\.0|3)/?$", "", str(url).rstrip("/"))


def require_rights(api: GlanceApi) -> None:
    """CloudError when the login is one that images cannot be added with."""
    attempted = "upload images to"
    if api.identity and not api.project:
        raise CloudError(
            attempted,
            api.name,
            why="the login is of no project, and images belong to one",
            next_step="Set project_name in clouds.yaml, or OS_PROJECT_NAME",
        )
    if api.roles and set(api.roles) <= {"reader"}:
        raise CloudError(
            attempted,
            api.name,
            why="the user's only role in this project is reader",
            next_step="Ask for the role member",
        )


def member_ids(api: GlanceApi, members: Sequence[str]) -> list[str]:
    """The projects' ids; InputError for what is no project, since Glance takes any text.

    An id that this user may not look up is believed. Without Keystone all are.
    """
    return [_member_id(api, member) for member in members] if api.identity else [*members]


def _member_id(api: GlanceApi, member: str) -> str:
    attempted = "look for the project to share with on"
    mine = (api.ask_identity("auth/projects", attempted) or {}).get("projects", [])
    if any(project["id"] == member for project in mine):
        return member
    if api.ask_identity(f"projects/{quote(member, safe='')}", attempted) is not None:
        return member
    found = api.ask_identity(f"projects?{urlencode({'name': member})}", attempted)
    named = {p["id"] for p in [*mine, *(found or {}).get("projects", [])] if p["name"] == member}
    if len(named) == 1:
        return str(named.pop())
    if found is None and _PROJECT_ID.fullmatch(member):
        return member
    why = (
        f"{len(named)} projects have that name"
        if named
        else "the cloud has no such project"
        if found is not None
        else "it is no project's id, and this user may not look projects up by name"
    )
    raise InputError(
        f"share images on {api.name} with",
        member,
        why=why,
        next_step=f"Give the id: openstack project show -f value -c id {member}",
    )
