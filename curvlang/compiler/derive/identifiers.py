"""Names of tensors as identifiers of the generated code, whatever a spec calls them."""

from __future__ import annotations

import keyword
import re
import unicodedata

from curvlang.ir.functions import FUNCTIONS, MAKERS

_OWN = re.compile(r"(x|y\d+_|pass_|after_|\w*__)\d+|result")
"""What the compiler itself calls intermediate results and functions."""
_NAMESPACE = frozenset({"torch", "gram", "rotate", "number", "eye", *FUNCTIONS, *MAKERS})


def identifier(name: str) -> str:
    """A Python identifier that reads like the name and means nothing else in generated code.

    >>> identifier("A"), identifier("lambda"), identifier("x1"), identifier("s²")
    ('A', 'lambda_', 'x1_', 's2')
    """
    # Python reads identifiers in this normal form: two spellings of one must not differ.
    plain = unicodedata.normalize("NFKC", name)
    plain = "".join(x if f"_{x}".isidentifier() else "_" for x in plain)
    if not plain.isidentifier():
        plain = f"_{plain}"
    taken = keyword.iskeyword(plain) or plain in _NAMESPACE or _OWN.fullmatch(plain)
    return f"{plain}_" if taken or plain == "_" else plain
