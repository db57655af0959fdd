"""WSGI filter for a Glance without Keystone: the token "USER:PROJECT:ROLE,ROLE" is the identity.

Imported by the servers' Python through PYTHONPATH; it stands where keystonemiddleware would.
"""

from __future__ import annotations

from typing import Any

_IDENTITY = ("HTTP_X_USER", "HTTP_X_PROJECT", "HTTP_X_TENANT", "HTTP_X_ROLE", "HTTP_X_IDENTITY")


def filter_factory(_global_conf: object, **_local_conf: object) -> type[FixedToken]:
    return FixedToken


class FixedToken:
    def __init__(self, application: Any) -> None:
        self._application = application

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        for name in [name for name in environ if name.startswith(_IDENTITY)]:
            del environ[name]  # a client must not name its own identity
        fields = environ.get("HTTP_X_AUTH_TOKEN", "").split(":")
        environ["HTTP_X_IDENTITY_STATUS"] = "Invalid"
        if len(fields) == 3:
            user, project, roles = fields
            environ.update(
                HTTP_X_IDENTITY_STATUS="Confirmed",
                HTTP_X_USER_ID=user,
                HTTP_X_USER_NAME=user,
                HTTP_X_PROJECT_ID=project,
                HTTP_X_PROJECT_NAME=project,
                HTTP_X_ROLES=roles,
                HTTP_X_USER_DOMAIN_ID="default",
                HTTP_X_PROJECT_DOMAIN_ID="default",
            )
        return self._application(environ, start_response)
