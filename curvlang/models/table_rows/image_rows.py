"""Images with their classes: rows of a checkpoint that classifies images."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.models.data.data import RawExamples
from curvlang.models.data.rows import Rows
from curvlang.models.execution.calls import exhausted
from curvlang.models.language_models.checkpoint import Checkpoint
from curvlang.models.language_models.libraries import first_line, library, quiet
from curvlang.models.language_models.text_table import TextTable
from curvlang.models.sources.flat_rows import RowWriter
from curvlang.models.table_rows.class_labels import (
    Problem,
    class_labels,
    column_of,
    label_names,
)
from curvlang.models.table_rows.columns import TextColumns

READY = "pixel_values"
"""The column of inputs that need no preparation."""
IMAGES = ("image", "img", READY)
"""Columns of images where none is named."""
PREPARES = "preprocessor_config.json"
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""How an image is read, by its channels."""
LARGEST = 255


@dataclass(frozen=True, slots=True, eq=False)
class ImageReader:
    """Makes inputs [C, H, W] of images.

    Args:
        model: What reads them.
        columns: What is read of a table.
    """

    model: Checkpoint
    columns: TextColumns

    def examples(self, train: TextTable, query: TextTable) -> RawExamples:
        """The inputs and labels of both tables.

        Raises:
            SpecError: E0866 for what is not an image of the model's size, E0896 for labels, E0899 without
                such columns.
        """
        labels = class_labels(self.model, self.columns.label, train)
        prepares = self._processor()
        sides = [(self._inputs(table, prepares), labels.of(table)) for table in (train, query)]
        options: dict[str, Any] = {}
        if labels.problem is not Problem.regression:
            options["label_of"] = label_names(self.model)
        return RawExamples(sides[0], sides[1], options, labels.problem.value)

    @property
    def channels(self) -> int:
        """Of an input."""
        found = self.model.config.get("num_channels")
        return found if isinstance(found, int) else 3

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of an input; None where the model reads any."""
        found = self.model.config.get("image_size")
        if isinstance(found, Sequence) and len(found) == 2:
            return int(found[0]), int(found[1])
        return (found, found) if isinstance(found, int) else None

    def _processor(self) -> Any:
        """What prepares images, where the checkpoint says how; None where it does not."""
        if not (Path(self.model.path) / PREPARES).is_file():
            return None
        transformers = library("transformers", "checkpoints are read")
        try:
            with quiet():
                return transformers.AutoImageProcessor.from_pretrained(
                    self.model.path, trust_remote_code=False
                )
        except Exception as error:
            raise refusal(
                Code.E0866,
                f"`{PREPARES}` of `{self.model.path}` cannot be used: {first_line(error)}",
                f"write it again with `processor.save_pretrained(DIR)`, or give a column `{READY}`",
            ) from error

    def _inputs(self, table: TextTable, prepares: Any) -> Rows:
        """[N, C, H, W]."""
        column = column_of(self.model, self.columns.image, IMAGES, "image", table)
        ready = column == READY or prepares is None
        first: Tensor | None = None
        with RowWriter(len(table), torch.float32) as rows:
            for n, value in enumerate(table.each(column)):
                found = self._read(value, column, table, n)
                x = found if ready else self._prepared(prepares, found, table, n)
                if column != READY and prepares is None and not found.is_floating_point():
                    x = found.float() / LARGEST
                first = x if first is None else first
                self._check_size(x, first, table, n)
                rows.add(x)
            return rows.finished()

    def _prepared(self, prepares: Any, x: Tensor, table: TextTable, n: int) -> Tensor:
        try:
            with quiet():
                made = prepares(
                    images=[x.numpy()], input_data_format="channels_first", return_tensors="pt"
                )
        except Exception as error:
            if exhausted(error):
                raise
            what = f"cannot be prepared as `{PREPARES}` says: {first_line(error)}"
            raise self._odd(table, n, what, f"give a column `{READY}`") from error
        found: Tensor = made[READY][0]
        return found

    def _read(self, value: Any, column: str, table: TextTable, n: int) -> Tensor:
        """An image as numbers [C, H, W]: whole numbers from 0 to 255, or any."""
        from PIL import Image

        if isinstance(value, Mapping):
            value = io.BytesIO(value["bytes"]) if value.get("bytes") else value.get("path")
        if isinstance(value, str | io.BytesIO):
            at = Path(table.name).parent / value if isinstance(value, str) else value
            try:
                value = Image.open(at)
                value.load()
            except Exception as error:
                what = f"cannot be read: {first_line(error)}"
                raise self._odd(
                    table, n, what, "give images, or paths from the file's own folder"
                ) from error
        if isinstance(value, Image.Image):
            return self._of_picture(value, table, n)
        try:
            x = torch.as_tensor(value)
        except Exception as error:
            what = f"is a `{type(value).__name__}` and not an image"
            raise self._odd(
                table, n, what, "give images, paths of them, or lists of numbers [C, H, W]"
            ) from error
        return self._of_numbers(x, table, n)

    def _of_picture(self, value: Any, table: TextTable, n: int) -> Tensor:
        mode = MODES.get(self.channels)
        if mode is None:
            what = f"is a picture, and the model reads {self.channels} channels"
            raise self._odd(table, n, what, f"give a column `{READY}`")
        same = value if value.mode == mode else value.convert(mode)
        x = torch.frombuffer(bytearray(same.tobytes()), dtype=torch.uint8)
        return x.reshape(same.height, same.width, self.channels).permute(2, 0, 1)

    def _of_numbers(self, x: Tensor, table: TextTable, n: int) -> Tensor:
        """[C, H, W], from [C, H, W], [H, W, C] or, of one channel, [H, W]."""
        x = x.unsqueeze(0) if x.ndim == 2 and self.channels == 1 else x
        if x.ndim == 3 and x.shape[0] == self.channels:
            return x
        if x.ndim == 3 and x.shape[2] == self.channels:
            return x.permute(2, 0, 1)
        what = f"has the shape {list(x.shape)}, and the model reads {self.channels} channels"
        raise self._odd(table, n, what, f"give numbers [{self.channels}, H, W]")

    def _check_size(self, x: Tensor, one: Tensor, table: TextTable, n: int) -> None:
        """Images have the size that the model reads, and one size where it reads any."""
        height, width = x.shape[1:]
        wanted = self.size
        if wanted is not None and (height, width) != wanted:
            what = f"is {height} × {width}, and `{self.model.path}` reads {wanted[0]} × {wanted[1]}"
            raise self._odd(table, n, what, _RESIZE)
        first = tuple(one.shape[1:])
        if (height, width) != first:
            what = f"is {height} × {width}, and row {table.number(0)} is {first[0]} × {first[1]}"
            raise self._odd(table, n, what, _RESIZE)

    def _odd(self, table: TextTable, n: int, what: str, repair: str) -> SpecError:
        return refusal(
            Code.E0866, f"the image at row {table.number(n)} of `{table.name}` {what}", repair
        )


_RESIZE = (
    "resize them, or write how they are prepared into the model's folder: "
    "`AutoImageProcessor.from_pretrained(NAME).save_pretrained(DIR)`"
)
