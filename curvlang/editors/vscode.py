"""The extension for VS Code: its own two files, and the grammar that ships."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal
from curvlang.storage.atomic import write

FILES = (
    ("curvlang.editors", "extension/package.json"),
    ("curvlang.editors", "extension/extension.js"),
    ("curvlang.grammars", "curvlang.tmLanguage.json"),
    ("curvlang.grammars", "language-configuration.json"),
)


def write_extension(folder: Path) -> list[Path]:
    """Write the extension into a folder, over an older copy of itself.

    Args:
        folder: Where extensions of the editor lie; it is made where it is missing.

    Raises:
        SpecError: E1002 where the folder cannot be written to.
    """
    written = []
    try:
        for package, name in FILES:
            target = folder / Path(name).name
            write(target, (resources.files(package) / name).read_bytes())
            written.append(target)
    except OSError as error:
        raise refusal(
            Code.E1002,
            f"`{folder}` cannot be written to: {error.strerror}",
            "name a folder of your own",
        ) from error
    return written
