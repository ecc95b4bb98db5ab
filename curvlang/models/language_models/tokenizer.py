"""Tokenizers of checkpoints: loaded without running code, of the model's own vocabulary; tokens as text again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.models.language_models.checkpoint import Checkpoint, check_code, place_of
from curvlang.models.language_models.libraries import calling, first_line, library

FILES = (
    "tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt",
    "tekken.json",
)  # fmt: skip
"""Where tokenizers keep their vocabulary."""


def tokenizer_of(model: Checkpoint, path: str | None, folder: Path) -> Any:
    """The tokenizer of a folder, or of the model's own.

    Args:
        model: Whose tokens it gives.
        path: A folder, or a name of a hub; None for the model's.
        folder: Where relative paths start.

    Raises:
        SpecError: E0892 for one that brings code, E0894 where there is none, or it has more tokens than the
            model.
    """
    place = model.path if path is None else place_of(path, folder)
    transformers = library("transformers", "texts are read")
    if Path(place).is_dir():
        _check_files(Path(place))
    with calling(lambda error: _none(place, first_line(error))):
        found = transformers.AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    count = _word_count(found)
    if model.vocabulary is not None and count > model.vocabulary:
        raise refusal(
            Code.E0894,
            f"the tokenizer of `{place}` has {count} tokens, and the model `{model.path}` "
            f"{model.vocabulary}",
            "give the tokenizer that the model was trained with: `tokenizer = DIR`",
        )
    return found


def _word_count(tokenizer: Any) -> int:
    """Tokens up to the last that texts become by themselves.

    A token for padding is often added to a tokenizer and not to its model, which never reads it.
    """
    special = set(tokenizer.all_special_ids)
    return 1 + max((k for k in tokenizer.get_vocab().values() if k not in special), default=-1)


_REPAIR = "write `tokenizer.save_pretrained(DIR)` into the model's folder, or name another one: `tokenizer = DIR`"


def _none(place: str | Path, why: str) -> SpecError:
    return refusal(Code.E0894, f"no tokenizer in `{place}`: {why}", _REPAIR)


def _check_files(folder: Path) -> None:
    """A folder that has a vocabulary; without one, `transformers` makes an empty tokenizer."""
    if not any((folder / name).is_file() for name in FILES):
        raise _none(folder, "it has no vocabulary")
    file = folder / "tokenizer_config.json"
    try:
        described = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    except (OSError, ValueError) as error:
        raise _none(folder, first_line(error)) from error
    if isinstance(described, Mapping):
        check_code(str(folder), described, file.name)


@dataclass(frozen=True, slots=True, eq=False)
class TokenText:
    """An example's tokens as the text that they stand for, without padding.

    Args:
        tokenizer: Whose tokens they are.
    """

    tokenizer: Any

    def __call__(self, fields: Mapping[str, Tensor]) -> str:
        """The text of one example.

        Args:
            fields: `input_ids` [T], and `attention_mask` where positions are left out.
        """
        ids = fields["input_ids"]
        mask = fields.get("attention_mask")
        own = ids if mask is None else ids[mask != 0]
        return str(self.tokenizer.decode(own.tolist(), skip_special_tokens=True))
