"""What clouds and their libraries say, made fit to be shown."""

from __future__ import annotations

import pytest

from pipeline.core.passwords import shortened, without_passwords
from pipeline.core.secrets import Secrets


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at http://u:SECRET@h:5000/v3: refused", "at http://u:****@h:5000/v3: refused"),
        ("'https://:SECRET@h' and http://a:SECRET@b", "'https://:****@h' and http://a:****@b"),
        ("http://u:SE@CR:ET@h/", "http://u:****@h/"),
        ("http://h:5000/v3/user@example", "http://h:5000/v3/user@example"),
        ("mail root@host: at http://h/", "mail root@host: at http://h/"),
    ],
)
def test_passwords_of_urls_are_masked_and_nothing_else(text: str, shown: str) -> None:
    assert without_passwords(text) == shown


def test_secrets_mask_urls_that_nobody_added() -> None:
    secrets = Secrets()
    secrets.add("topmost-secret")
    text = "topmost-secret at http://user:hidden@host/"
    assert secrets.mask(text) == "**** at http://user:****@host/"


def test_long_texts_end_with_a_whole_word() -> None:
    text = "Connection refused, and refused again"
    assert shortened(text, 100) == text
    assert shortened(text, 22) == "Connection refused …"
    assert shortened("x" * 30, 10) == f"{'x' * 10} …"
