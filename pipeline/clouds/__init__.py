"""One module a cloud, each behind protocol.Cloud."""
