"""The extension for VS Code: its own two files, and the grammar that ships."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal

FILES = (
    ("curvlang.editors", "extension/package.json"),
    ("curvlang.editors", "extension/extension.js"),
    ("curvlang.grammars", "curvlang.tmLanguage.json"),
    ("curvlang.grammars", "language-configuration.json"),
)


def write_extension(folder: Path) -> list[Path]:
    """Write the extension into a folder, over an older copy of itself.

    Raises:
        SpecError: E1002 where the folder cannot be written to.
    """
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for package, name in FILES:
            target = folder / Path(name).name
            target.write_text((resources.files(package) / name).read_text("utf-8"), "utf-8")
            written.append(target)
    except OSError as error:
        raise refusal(
            Code.E1002,
            f"`{folder}` cannot be written to: {error.strerror}",
            "name a folder of your own",
        ) from error
    return written
