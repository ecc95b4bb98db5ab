"""The rooms of curvlang, from the ground up: who may import whom, and who does without torch.

`docs/architecture.md` shows this table; `test_house.py` holds it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Room:
    """One room: a folder of `curvlang`, the façade, or `cli`.

    Args:
        floor: Imports go to lower floors only, never to a room of the same one.
        name: Its folder, or file.
        duty: What it does, in one line.
        subrooms: Folders in it.
        torch: Whether importing it may import torch.
    """

    floor: int
    name: str
    duty: str
    subrooms: tuple[str, ...] = ()
    torch: bool = True


ROOMS = (
    Room(1, "diagnostics", "what is wrong, where, what to do: data, one registry of codes, one refusal; "
         "rendered to text, colour or JSON", torch=False),
    Room(2, "storage", "bytes on disk: the atomic writer, the cache, sealed tensors, score files; "
         "knows no mathematics", ("fits",)),
    Room(2, "ir", "what the mathematics is: index spaces, tensor expressions, and a direct interpreter",
         torch=False),
    Room(3, "language", "text to syntax and back; names resolved, chains checked; `chain.py` is what the "
         "compiler reads", ("syntax", "registry", "bodies", "checking"), torch=False),
    Room(3, "operators", "one file per structured operator: its page of identities", ("iterative",)),
    Room(4, "compiler", "normal form and structure; statements; typed instructions and their printer; "
         "passes, cost; the explanation", ("algebra", "derive", "codegen", "planning", "explain")),
    Room(4, "models", "layers as `a` and `g`; models that ship; rows of data; losses and factors; Jacobian "
         "and Hessian", ("layers", "architectures", "data", "files", "losses", "tracing", "execution",
                         "derivatives", "padding", "partitions", "sources", "language_models", "table_rows")),
    Room(5, "runtime", "runs a plan: accumulators, batches, devices, precision, memory, processes",
         ("kernels", "limits", "passes", "positions", "processes", "progress", "stored")),
    Room(5, "training", "stacked retraining, orders of examples, subsets, replay"),
    Room(5, "editors", "highlighting, completion, the language server", ("extension",), torch=False),
    Room(6, "attribution", "scores, streamed; self-influence, groups, top examples, methods that follow "
         "the training", ("formulas", "indexed", "streams")),
    Room(6, "applications", "a fitted curvature at work besides scores: the evidence of Laplace's approximation, "
         "natural gradients"),
    Room(6, "workers", "work in units: here, over the processes of a group, over the workers of Dask"),
    Room(7, "evaluation", "one engine: errors, ground truth, LDS, comparisons; studies",
         ("inverses", "measures", "retraining", "statistics", "study")),
    Room(7, "exchange", "curvatures and scores of other tools, read and written: kronfluence, bergson, dattri, "
         "curvlinops"),
    Room(7, "costs", "what a run will take and what it took"),
    Room(7, "testing", "public Hypothesis strategies and laws"),
    Room(8, "reporting", "tables, figures, HTML", ("tables", "figures", "study")),
    Room(9, "facade", "everything that a user imports; `curvlang/__init__.py` names it"),
    Room(10, "cli", "arguments in, the façade called, text out: one file per command",
         ("commands",)),
)  # fmt: skip

BY_NAME = {room.name: room for room in ROOMS}
FILES = {
    "": "facade",
    "evaluations": "facade",
    "doctor": "facade",
    "fits": "facade",
    "indexing": "facade",
    "precision_report": "facade",
    "score_notes": "facade",
    "score_report": "facade",
    "score_targets": "facade",
    "score_words": "facade",
    "scoring": "facade",
    "starter": "facade",
    "studies": "facade",
    "__main__": "cli",
}
"""Files of `curvlang` itself, with the room that they belong to."""
MOST_FILES = 16
"""Python files of one folder, `__init__.py` included."""


def room_of(module: str) -> Room | None:
    """The room of a module by its dotted name; the version belongs to none, so that all may read it."""
    first = [*module.split("."), ""][1]
    if first == "version":
        return None
    return BY_NAME.get(FILES.get(first, first))


def table() -> list[str]:
    """The rooms as a table of Markdown."""
    rows = [
        f"| {room.floor} | `{room.name}` | {' '.join(f'`{x}`' for x in room.subrooms)} | "
        f"{room.duty}{'' if room.torch else '; never imports torch'} |"
        for room in ROOMS
    ]
    return ["| floor | room | rooms in it | duty |", "|--:|---|---|---|", *rows]
