"""Reads a metadata service with cloud-init's own datasources; a program, given the address.

Prints one JSON object: what the EC2 datasource (with a session token) and the OpenStack one found.
"""

import json
import logging
import sys

from cloudinit import helpers  # type: ignore[import-not-found] # comes with Debian's package
from cloudinit.sources import DataSourceEc2, DataSourceOpenStack  # type: ignore[import-not-found]

address, kind = sys.argv[1:]
logging.disable()
config = {"datasource": {kind: {"metadata_urls": [address], "max_wait": 20, "timeout": 10}}}
paths = helpers.Paths({"run_dir": sys.argv[0] + ".run", "cloud_dir": sys.argv[0] + ".cloud"})
if kind == "Ec2":
    source = DataSourceEc2.DataSourceEc2(config, None, paths)
    source._cloud_name = DataSourceEc2.CloudNames.AWS
    found = source.crawl_metadata()
    found["token"] = bool(source._api_token)
    found["version"] = source.get_metadata_api_version()
    source.metadata = found["meta-data"]
else:
    source = DataSourceOpenStack.DataSourceOpenStack(config, None, paths)
    found = source._crawl_metadata()
    source.metadata = found["metadata"]
found["keys"] = source.get_public_ssh_keys()
print(json.dumps(found, default=lambda value: value.decode("latin-1")))
