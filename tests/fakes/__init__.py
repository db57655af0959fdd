"""Strict stand-ins for clouds that cannot be run here: they refuse whatever AWS documents as wrong.

They never serve as proof where a real server runs (OpenStack's ec2-api, Swift's S3). They were
written from the services' references and compared with AWS by nobody.
"""
