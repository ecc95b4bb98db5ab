"""Which columns of a table a checkpoint reads, and how long its rows may be."""

from __future__ import annotations

from dataclasses import dataclass, fields

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal
from curvlang.models.language_models.checkpoint import Checkpoint
from curvlang.models.language_models.heads import HEADS

TEXT, MESSAGES = "text", "messages"
"""The columns of texts, and of conversations, where none is named."""


@dataclass(frozen=True, slots=True)
class TextColumns:
    """What is read of a table.

    Args:
        text: The column of whole texts.
        pair: The column of second texts, for a classifier of pairs; None for none.
        prompt: The column of prompts, whose tokens are read and not predicted; None for none.
        completion: The column of what follows a prompt.
        messages: The column of conversations, of which the answers are predicted; read where it is named, or
            there are no texts.
        label: The column of classes, for a classifier; None for `labels` or `label`.
        tokens: The column of lists of words, for a classifier of words; None for `tokens` or `words`.
        tags: The column of their classes; None for `tags`, `ner_tags`, `labels` or `label`.
        source: The column that an encoder reads; None for `source`.
        target: The column that a decoder predicts; None for `target`.
        image: The column of images; None for `image`, `img` or `pixel_values`.
        length: Most tokens of a row: longer ones are cut; None for none, where longer ones than the model
            reads are refused.
        pack: Whether texts are joined, one behind the other, and cut into rows of `length`.
    """

    text: str = TEXT
    pair: str | None = None
    prompt: str | None = None
    completion: str | None = None
    messages: str = MESSAGES
    label: str | None = None
    tokens: str | None = None
    tags: str | None = None
    source: str | None = None
    target: str | None = None
    image: str | None = None
    length: int | None = None
    pack: bool = False

    def __post_init__(self) -> None:
        """Refuse columns that exclude each other.

        Raises:
            SpecError: E0896.
        """
        if (self.prompt is None) != (self.completion is None):
            one, other = (
                ("prompt", "completion") if self.completion is None else ("completion", "prompt")
            )
            raise refusal(Code.E0896, f"`{one}` is given without `{other}`", "name both columns")
        named = {
            "text": self.text != TEXT,
            "prompt": self.prompt,
            "messages": self.messages != MESSAGES,
        }
        rows = [word for word, given in named.items() if given]
        if len(rows) > 1:
            both = f"`{rows[0]}` and `{rows[1]}` both say what a row is"
            raise refusal(Code.E0896, both, "name the columns of one")
        if self.pack and (self.prompt is not None or self.label is not None):
            raise refusal(
                Code.E0896,
                f"`pack` joins rows, and `{'label' if self.prompt is None else 'prompt'}` is about one",
                "leave `pack` out",
            )

    @property
    def given(self) -> tuple[str, ...]:
        """The words that say something else than their default."""
        return tuple(f.name for f in fields(self) if getattr(self, f.name) != f.default)

    def check(self, model: Checkpoint) -> None:
        """Refuse words that are about models of another kind, and lengths that this one does not read.

        Raises:
            SpecError: E0898 for the length, E0899 for the words.
        """
        most = model.positions
        if most is not None and self.length is not None and self.length > most:
            raise refusal(
                Code.E0898,
                f"`length = {self.length}`, and `{model.path}` reads {most} positions",
                f"write `length = {most}`, or less",
            )
        for word in self.given:
            if word not in model.head.words:
                other = ", ".join(str(head) for head in HEADS if word in head.words)
                known = ", ".join(f"`{x}`" for x in model.head.words)
                raise refusal(
                    Code.E0899,
                    f"`{word}` is for models {other}, and `{model.architecture}` predicts "
                    f"{model.head.predicts}",
                    f"leave `{word}` out: this model takes {known}",
                )
