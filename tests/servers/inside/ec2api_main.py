"""Start ec2-api 17 against today's Keystone. Run by the EC2 endpoint's own Python.

Keystone has since asked for a service token on /v3/ec2tokens and refuses tokens that come from
EC2 keys on its own API; ec2-api was retired before. Both calls are made as the service user here.
"""

import sys
from typing import Any

import ec2api.cmd  # type: ignore[import-not-found] # noqa: F401 # patches the standard library
from ec2api import clients, context
from ec2api.cmd import api


def main() -> Any:
    add_ssl, keystone = clients.update_request_params_with_ssl, clients.keystone

    def with_service_token(parameters: dict[str, Any]) -> None:
        add_ssl(parameters)
        if "data" in parameters:  # only the signature check posts data
            token = clients.get_os_admin_session().get_token()
            parameters["headers"]["X-Auth-Token"] = token

    clients.update_request_params_with_ssl = with_service_token
    clients.keystone = lambda _context: keystone(context.get_os_admin_context())
    return api.main()


if __name__ == "__main__":
    sys.exit(main())
