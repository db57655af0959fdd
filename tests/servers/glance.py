"""Glance, behind Keystone or alone with fixed tokens."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import dedent

from tests.servers.environments import interpreter
from tests.servers.keystone import service_login
from tests.servers.processes import Processes, run
from tests.servers.seeds import copy_seed

_INSIDE = Path(__file__).parent / "inside"
_SERVE = _INSIDE / "serve_wsgi.py"
_VERSIONS = "glance.api.middleware.version_negotiation:VersionNegotiationFilter.factory"
_UUID = "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"
# Distributions ship this file and the wheel does not: it makes Glance check the links of a triple.
_SCHEMA = {
    name: {"type": ["null", "string"], "pattern": _UUID, "description": f"The {name} of an AMI"}
    for name in ("kernel_id", "ramdisk_id")
}


def start(
    processes: Processes,
    directory: Path,
    port: int,
    keystone: str | None,
    *,
    name: str = "glance",
    policy: dict[str, str] | None = None,
    settings: str = "",
) -> str:
    """Start Glance; its URL.

    keystone: its URL, or None for fixed tokens "USER:PROJECT:ROLES". policy: rules that differ
    from Glance's own. settings: lines added to the [DEFAULT] section.
    """
    copy_seed("glance", "openstack", directory, _seed)
    for part in ("store", "staging", "tasks", "work", "locks"):
        (directory / part).mkdir(exist_ok=True)
    (directory / "schema-image.json").write_text(json.dumps(_SCHEMA))
    (directory / "policy.yaml").write_text(json.dumps(policy or {}))
    _write_paste(directory, "fixed_token" if keystone is None else "keystonemiddleware.auth_token")
    config = _configure(directory, settings)
    if keystone is not None:
        with config.open("a") as file:
            file.write(service_login(keystone, "keystone_authtoken"))
    processes.start(
        name,
        [interpreter("openstack"), _SERVE, "glance.wsgi.api:application", str(port)],
        {"OS_GLANCE_CONFIG_DIR": str(directory), "PYTHONPATH": str(_INSIDE)},
    )
    url = f"http://127.0.0.1:{port}"
    processes.wait_for(name, f"{url}/healthcheck")
    return url


def _configure(directory: Path, settings: str = "") -> Path:
    path = directory / "glance-api.conf"
    path.write_text(
        dedent(f"""
        [DEFAULT]
        enabled_backends = fast:file
        enabled_import_methods = [glance-direct]
        node_staging_uri = file://{directory}/staging
        hashing_algorithm = sha512
        use_stderr = true
        """)
        + settings
        + dedent(f"""
        [database]
        connection = sqlite:///{directory}/glance.sqlite
        [glance_store]
        default_backend = fast
        [fast]
        filesystem_store_datadir = {directory}/store
        [os_glance_staging_store]
        filesystem_store_datadir = {directory}/staging
        [os_glance_tasks_store]
        filesystem_store_datadir = {directory}/tasks
        [oslo_policy]
        policy_file = {directory}/policy.yaml
        [paste_deploy]
        flavor = keystone
        config_file = {directory}/paste.ini
        [oslo_concurrency]
        lock_path = {directory}/locks
        [oslo_messaging_notifications]
        driver = noop
        [task]
        work_dir = {directory}/work
        [taskflow_executor]
        engine_mode = serial
        """)
    )
    return path


def _write_paste(directory: Path, authentication: str) -> None:
    (directory / "paste.ini").write_text(
        dedent(f"""
        [composite:glance-api-keystone]
        paste.composite_factory = glance.api:root_app_factory
        /: api
        /healthcheck: healthcheck
        [composite:api]
        paste.composite_factory = glance.api:pipeline_factory
        keystone = versions authenticate context rootapp
        [composite:rootapp]
        paste.composite_factory = glance.api:root_app_factory
        /: versionlist
        /v2: v2
        [app:versionlist]
        paste.app_factory = glance.api.versions:create_resource
        [app:v2]
        paste.app_factory = glance.api.v2.router:API.factory
        [app:healthcheck]
        paste.app_factory = oslo_middleware:Healthcheck.app_factory
        [filter:versions]
        paste.filter_factory = {_VERSIONS}
        [filter:authenticate]
        paste.filter_factory = {authentication}:filter_factory
        delay_auth_decision = true
        [filter:context]
        paste.filter_factory = glance.api.middleware.context:ContextMiddleware.factory
        """)
    )


def _seed(directory: Path) -> None:
    manage = interpreter("openstack").with_name("glance-manage")
    run([manage, "--config-file", _configure(directory), "db_sync"], directory / "manage.log")
