"""What `vulture` calls unused although something outside the code calls it, with who does."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from vulture import Vulture

CALLED_FROM_OUTSIDE = {
    "__getattr__": "Python, for public names",
    "__dir__": "Python, for public names",
    "__iadd__": "Python, for `+=`",
    "__class__": "Python, for `isinstance`",
    "_should_skip_dynamo": "torch, for modes that see every operation",
    "_value_": "the standard library's `enum`",
    "_render_traceback_": "notebooks",
    "to_pandas": "users: the tables that public calls return",
    "_use": "the parser, by the name of a grammar rule",
    "_inverse": "the parser, by the name of a grammar rule",
    "_transform": "the parser, by the name of a grammar rule",
    "collect_usage_pieces": "the command-line library, for the help",
    "format_options": "the command-line library, for the help",
    "format_epilog": "the command-line library, for the help",
    "CvLexer": "Pygments, by the entry point in pyproject.toml",
    "aliases": "Pygments",
    "filenames": "Pygments",
    "mimetypes": "Pygments",
    "setup_context": "torch.autograd",
    "mod_tracker": "torch's FLOP counter",
    "stable_name": "`curvlang.models.fingerprint`, by `getattr`",
    "compute_mode": "torch.cdist, an argument of the function that this one replaces",
    "inplace": "torch.celu, an argument of the function that this one replaces",
    "read_result": "users: reads the result that `curvlang eval` wrote",
    "grids": "the template of a study's page",
    "EQUALS": "the parser, by its value",
    "_matmat": "curvlinops, for products",
    "SELF_ADJOINT": "curvlinops, for the adjoint",
    "stdio": "editors, which pass `--stdio` to a language server",
}
"""Name to its caller."""
DECORATORS = ["@server.feature", "@app.*"]
"""Functions that a registry calls."""
LEAST_CONFIDENCE = 60


@cache
def _reported(paths: tuple[Path, ...]) -> tuple[tuple[str, str, str], ...]:
    """File, kind and name of everything that `vulture` calls unused."""
    finder = Vulture(ignore_decorators=DECORATORS)
    finder.scavenge([str(path) for path in paths])
    found = finder.get_unused_code(min_confidence=LEAST_CONFIDENCE)
    return tuple((Path(x.filename).name, x.typ, x.name) for x in found)


def unused(*paths: Path) -> list[str]:
    """Code that nothing uses, as `file: kind name`."""
    return [f"{f}: {k} {n}" for f, k, n in _reported(paths) if n not in CALLED_FROM_OUTSIDE]


def never_reported(*paths: Path) -> set[str]:
    """Names of the list that `vulture` does not report: they need no excuse."""
    return set(CALLED_FROM_OUTSIDE) - {name for _, _, name in _reported(paths)}
