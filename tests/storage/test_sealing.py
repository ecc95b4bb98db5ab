"""Sealed texts: what was written is read, and any byte that changes is found."""

from __future__ import annotations

import pytest

from curvlang.storage.sealing import sealed, unsealed

CONTENT = {"a": 1, "b": {"c": [1.5, None, True]}, "name": "α \ud800", "quoted": '"sha256": "x'}
CONTENT["inside"] = {"sha256": "0" * 63}


def test_what_was_written_is_read():
    found = unsealed(sealed(CONTENT))
    assert found == {**CONTENT, "sha256": found["sha256"]}


@pytest.mark.parametrize("flip", [1, 128])
def test_any_byte_that_changes_is_found(flip):
    text = sealed(CONTENT)
    for place in range(len(text)):
        changed = bytearray(text)
        changed[place] ^= flip
        try:
            found = unsealed(bytes(changed))
        except ValueError:
            found = None
        assert found is None, place


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b'"sha256"', b"\xff", b'{"sha256": 3}'])
def test_other_texts_are_refused(text):
    with pytest.raises(ValueError, match=r"."):
        unsealed(text)
