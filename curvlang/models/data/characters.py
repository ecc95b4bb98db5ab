"""Sequences of characters: eleven sonnets of Shakespeare (1609, in the public domain).

The alphabet is Shannon's (Prediction and Entropy of Printed English, 1951): 26 letters and the
space, which stands for everything else.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import resources

import torch
from torch import Generator, Tensor

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal
from curvlang.models.data.data import Data, check_share

ALPHABET = " abcdefghijklmnopqrstuvwxyz"
"""Character number k of a sequence stands for `ALPHABET[k]`."""


@cache
def text() -> str:
    """The text in the alphabet's characters, without double spaces."""
    raw = resources.files("curvlang.models.data").joinpath("characters.txt").read_text("utf-8")
    return re.sub(r"[^a-z]+", " ", raw.lower().replace("'", "")).strip()


def spelt(sequence: Tensor) -> str:
    """Numbers of characters as text."""
    return "".join(ALPHABET[int(k)] for k in sequence)


def characters(context: int, test: float, seed: int) -> Data:
    """Windows of `context` characters, one behind the other, each with the characters that follow.

    Args:
        context: T, the characters of an example.
        test: Share of the windows that become queries.
        seed: Of the split.

    Returns:
        Inputs [N, T] and targets [N, T], int64: the target at a position is the next character.

    Raises:
        SpecError: E0412 for a context that leaves fewer than two windows, or a share that leaves
            one side empty.
    """
    numbers = torch.tensor([ALPHABET.index(x) for x in text()])
    count = (len(numbers) - 1) // context
    if count < 2:
        raise refusal(
            Code.E0412,
            f"`context = {context}` is out of range",
            f"the text has {len(numbers)} characters; take a context such as 8",
        )
    check_share(test, count)
    X = numbers[: count * context].reshape(count, context)
    y = numbers[1 : count * context + 1].reshape(count, context)
    order = torch.randperm(count, generator=Generator().manual_seed(seed))
    cut = count - round(test * count)
    train, query = order[:cut].sort().values, order[cut:].sort().values
    return Data(
        (X[train], y[train]), (X[query], y[query]), len(ALPHABET), context, "classification"
    )
