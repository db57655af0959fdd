"""EC2-compatible clouds: images backed by S3 bundles and by EBS snapshots."""
