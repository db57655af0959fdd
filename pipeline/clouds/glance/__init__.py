"""OpenStack Glance, through openstacksdk's session."""
