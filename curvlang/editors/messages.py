"""Completions, hovers, problems and edits as values of the Language Server Protocol."""

from __future__ import annotations

from pathlib import Path

from lsprotocol import types
from pygls.uris import from_fs_path, to_fs_path

from curvlang.diagnostics.diagnostic import Diagnostic, Label, Severity
from curvlang.diagnostics.pages import address
from curvlang.diagnostics.source import Span
from curvlang.editors.completion import Candidate
from curvlang.editors.document import Document, Place, shipped_path
from curvlang.editors.positions import Lines
from curvlang.editors.reading import Role
from curvlang.editors.symbols import Symbol

KINDS = {
    Role.STAGE: types.CompletionItemKind.Function,
    Role.CURVATURE: types.CompletionItemKind.Class,
    Role.SCORE: types.CompletionItemKind.Function,
    Role.INVERSE: types.CompletionItemKind.Function,
    Role.TASK: types.CompletionItemKind.Module,
    Role.PART: types.CompletionItemKind.Module,
    Role.SOLVER: types.CompletionItemKind.Function,
    Role.TENSOR: types.CompletionItemKind.Variable,
    Role.SCALAR: types.CompletionItemKind.Variable,
    Role.INDEX: types.CompletionItemKind.TypeParameter,
    Role.FUNCTION: types.CompletionItemKind.Operator,
    Role.ARGUMENT: types.CompletionItemKind.Property,
    Role.VALUE: types.CompletionItemKind.EnumMember,
    Role.FILE: types.CompletionItemKind.File,
}
SYMBOLS = {
    "curvature": types.SymbolKind.Class,
    "transform": types.SymbolKind.Function,
    "score": types.SymbolKind.Function,
    "inverse": types.SymbolKind.Operator,
    "task": types.SymbolKind.Module,
    "evaluate": types.SymbolKind.Event,
    "study": types.SymbolKind.Event,
    "tensor": types.SymbolKind.Variable,
}


def span_range(lines: Lines, start: int, end: int) -> types.Range:
    """Characters as a range of lines and columns."""
    return types.Range(types.Position(*lines.position(start)), types.Position(*lines.position(end)))


def path_of(uri: str) -> str:
    """The path of a file, or the address itself for a text that is not saved."""
    return (to_fs_path(uri) or uri) if uri.startswith("file:") else uri


def uri_of(name: str) -> str | None:
    """The address of a source: a path, or a file that ships."""
    shipped = shipped_path(name)
    if shipped is not None:
        return from_fs_path(str(shipped))
    if name.startswith("<"):
        return None
    return from_fs_path(str(Path(name).absolute()))


def diagnostics(document: Document, uri: str, lines: Lines) -> list[types.Diagnostic]:
    """Everything that `check` says about a text."""
    return [_diagnostic(d, document, uri, lines) for d in document.problems]


def _diagnostic(
    problem: Diagnostic, document: Document, uri: str, lines: Lines
) -> types.Diagnostic:
    placed = [x for x in problem.labels if x.span.source.text]
    here = [x for x in placed if x.span.source.name == document.name]
    primary = here[0] if here else None
    span = primary.span if primary is not None else _elsewhere(document, placed)
    warning = problem.severity is Severity.WARNING
    return types.Diagnostic(
        range=span_range(lines, span.start, span.end),
        message=message(problem, primary),
        severity=types.DiagnosticSeverity.Warning if warning else types.DiagnosticSeverity.Error,
        code=problem.code,
        code_description=types.CodeDescription(href=address(problem.code)),
        source="curvlang",
        related_information=[
            found
            for x in placed
            if x is not primary and (found := _related(x, document, uri, lines)) is not None
        ],
    )


def actions(
    document: Document, uri: str, lines: Lines, asked: tuple[int, int]
) -> list[types.CodeAction]:
    """Quick fixes of what is wrong in a range of characters, each with its diagnostic."""
    start, end = asked
    found = []
    for problem in document.problems:
        shown = _diagnostic(problem, document, uri, lines)
        places = [*(x.span for x in problem.labels), *(x.span for x in problem.edits)]
        own = [x for x in places if x.source.name == document.name]
        if not any(x.start <= end and start <= x.end for x in own):
            continue
        for edit in problem.edits:
            if edit.span.source.name == document.name:
                change = types.TextEdit(
                    span_range(lines, edit.span.start, edit.span.end), edit.text
                )
                found.append(
                    types.CodeAction(
                        title=edit.title,
                        kind=types.CodeActionKind.QuickFix,
                        diagnostics=[shown],
                        edit=types.WorkspaceEdit(changes={uri: [change]}),
                        is_preferred=True,
                    )
                )
    return found


def message(problem: Diagnostic, primary: Label | None) -> str:
    """Headline, reason, notes and repair, a line each."""
    reason = [primary.message] if primary is not None and primary.message else []
    helps = [f"help: {x}" for x in problem.help]
    return "\n".join([problem.headline, *reason, *problem.notes, *helps])


def _elsewhere(document: Document, labels: list[Label]) -> Span:
    """Where to show a mistake of another file: at the `use` of it, else at the first line."""
    others = {Path(x.span.source.name).name for x in labels}
    for item in document.reading.items:
        for word in item.words:
            if word.role is Role.FILE and Path(word.text.strip('"')).name in others:
                return Span(document.source, word.start, word.end)
    return Span(document.source, 0, 0)


def _related(
    label: Label, document: Document, uri: str, lines: Lines
) -> types.DiagnosticRelatedInformation | None:
    source = label.span.source
    own = source.name == document.name
    where = uri if own else uri_of(source.name)
    if where is None:
        return None
    counted = lines if own else Lines(source.text, lines.encoding)
    place = types.Location(where, span_range(counted, label.span.start, label.span.end))
    return types.DiagnosticRelatedInformation(place, label.message or "see here")


def location(place: Place, document: Document, uri: str, lines: Lines) -> types.Location | None:
    """A place as a location; None where its file is nowhere on this machine."""
    own = place.name == document.name
    where = uri if own else uri_of(place.name)
    if where is None:
        return None
    counted = lines if own else Lines(place.text, lines.encoding)
    return types.Location(where, span_range(counted, place.start, place.end))


def completion(candidate: Candidate, number: int) -> types.CompletionItem:
    """A candidate; its number keeps the order, since editors sort by text."""
    return types.CompletionItem(
        label=candidate.text,
        kind=KINDS.get(candidate.role, types.CompletionItemKind.Keyword),
        detail=candidate.detail or None,
        sort_text=f"{int(candidate.rank)}{number:04}",
        filter_text=candidate.text,
    )


def symbol(found: Symbol, lines: Lines) -> types.DocumentSymbol:
    """An item of the outline."""
    return types.DocumentSymbol(
        name=found.name.text,
        detail=found.kind,
        kind=SYMBOLS.get(found.kind, types.SymbolKind.Object),
        range=span_range(lines, found.start, max(found.end, found.name.end)),
        selection_range=span_range(lines, found.name.start, found.name.end),
        children=[symbol(x, lines) for x in found.children],
    )
