"""Runs beside a guest's root, as its "/", with Python's own library alone; settings.py starts it.

Its modules are sent to an interpreter of the host that has changed its root to the guest's: every
path and link in them is the guest's, and none of the guest's programs runs.
"""
