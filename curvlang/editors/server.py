"""The language server: the protocol on one side, `document` and its questions on the other."""

from __future__ import annotations

import asyncio
import functools
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from lsprotocol import types
from pygls.exceptions import JsonRpcException
from pygls.lsp.server import LanguageServer

from curvlang.diagnostics.diagnostic import SpecError
from curvlang.editors import messages
from curvlang.editors.completion import complete
from curvlang.editors.document import Document, origins
from curvlang.editors.hover import hover
from curvlang.editors.positions import Lines
from curvlang.editors.reading import Word
from curvlang.editors.symbols import RENAMED, occurrences, outline, rename
from curvlang.language.syntax.formatter import format_source
from curvlang.version import VERSION

PAUSE = 0.15
"""Seconds without a key press after which a text is checked."""
REQUEST_FAILED = -32803
Result = TypeVar("Result")


@dataclass(frozen=True)
class OpenText:
    """A text as the editor has it open."""

    uri: str
    version: int | None
    document: Document
    lines: Lines

    def offset(self, position: types.Position) -> int:
        """The offset of a position."""
        return self.lines.offset(position.line, position.character)

    def word(self, position: types.Position) -> Word | None:
        """The word at a position."""
        return self.document.word_at(self.offset(position))

    def range(self, start: int, end: int) -> types.Range:
        """Characters as a range."""
        return messages.span_range(self.lines, start, end)


class CvServer(LanguageServer):
    """Texts that are open, and checks that wait for a pause."""

    def __init__(self) -> None:
        super().__init__(
            "curvlang", VERSION, text_document_sync_kind=types.TextDocumentSyncKind.Full
        )
        self.known: dict[str, OpenText] = {}
        self.waiting: dict[str, asyncio.TimerHandle] = {}

    def open_text(self, uri: str) -> OpenText:
        """The text under an address as it is now; what is known of it is kept until it changes."""
        given = self.workspace.get_text_document(uri)
        kept = self.known.get(uri)
        if kept is None or kept.document.text != given.source or kept.version != given.version:
            document = Document(messages.path_of(uri), given.source)
            encoding = str(getattr(self.workspace.position_encoding, "value", "utf-16"))
            kept = OpenText(uri, given.version, document, Lines(given.source, encoding))
            self.known[uri] = kept
        return kept

    def check_soon(self, uri: str, pause: float = PAUSE) -> None:
        """Check a text once nothing has been typed for a moment."""
        self.forget(uri)
        loop = asyncio.get_running_loop()
        self.waiting[uri] = loop.call_later(pause, self.check, uri)

    def forget(self, uri: str) -> None:
        """Take back a check that waits."""
        handle = self.waiting.pop(uri, None)
        if handle is not None:
            handle.cancel()

    def check(self, uri: str) -> None:
        """Check a text and publish what is wrong with it."""
        self.waiting.pop(uri, None)
        try:
            text = self.open_text(uri)
            found = messages.diagnostics(text.document, uri, text.lines)
        except Exception:
            # The editor goes on with what was published before, and the reason stands in its log.
            self.complain()
            return
        self.text_document_publish_diagnostics(
            types.PublishDiagnosticsParams(uri, found, text.version)
        )

    def complain(self) -> None:
        """Write the error that is being handled into the editor's log."""
        self.window_log_message(
            types.LogMessageParams(types.MessageType.Error, traceback.format_exc())
        )


def guarded(handler: Callable[[CvServer, Any], Result]) -> Callable[[CvServer, Any], Result | None]:
    """A handler that never ends the server: a bug is written into the log, the answer is empty."""

    @functools.wraps(handler)
    def run(ls: CvServer, params: Any) -> Result | None:
        try:
            return handler(ls, params)
        except JsonRpcException:
            raise
        except Exception:
            ls.complain()
            return None

    return run


server = CvServer()


@server.feature(types.TEXT_DOCUMENT_DID_OPEN)
@guarded
def did_open(ls: CvServer, params: types.DidOpenTextDocumentParams) -> None:
    """Check at once."""
    ls.check_soon(params.text_document.uri, 0)


@server.feature(types.TEXT_DOCUMENT_DID_CHANGE)
@guarded
def did_change(ls: CvServer, params: types.DidChangeTextDocumentParams) -> None:
    """Check after a pause."""
    ls.check_soon(params.text_document.uri)


@server.feature(types.TEXT_DOCUMENT_DID_SAVE)
@guarded
def did_save(ls: CvServer, params: types.DidSaveTextDocumentParams) -> None:
    """A saved file may be one that other open texts use: check them all."""
    for uri in list(ls.known):
        ls.known.pop(uri)
        ls.check_soon(uri)


@server.feature(types.TEXT_DOCUMENT_DID_CLOSE)
@guarded
def did_close(ls: CvServer, params: types.DidCloseTextDocumentParams) -> None:
    """Take the diagnostics of a closed text away."""
    uri = params.text_document.uri
    ls.forget(uri)
    ls.known.pop(uri, None)
    ls.text_document_publish_diagnostics(types.PublishDiagnosticsParams(uri, []))


@server.feature(types.TEXT_DOCUMENT_HOVER)
@guarded
def on_hover(ls: CvServer, params: types.HoverParams) -> types.Hover | None:
    """Signature, spaces, structure, source."""
    text = ls.open_text(params.text_document.uri)
    word = text.word(params.position)
    shown = None if word is None else hover(text.document, word)
    if word is None or shown is None:
        return None
    markdown = types.MarkupContent(types.MarkupKind.Markdown, shown)
    return types.Hover(markdown, text.range(word.start, word.end))


@server.feature(
    types.TEXT_DOCUMENT_COMPLETION,
    types.CompletionOptions(trigger_characters=[">", "(", ",", "[", "=", '"']),
)
@guarded
def on_completion(ls: CvServer, params: types.CompletionParams) -> types.CompletionList:
    """What can stand here, fitting candidates first."""
    text = ls.open_text(params.text_document.uri)
    found = complete(text.document, text.offset(params.position))
    items = [messages.completion(c, k) for k, c in enumerate(found)]
    return types.CompletionList(is_incomplete=False, items=items)


@server.feature(types.TEXT_DOCUMENT_DEFINITION)
@guarded
def on_definition(ls: CvServer, params: types.DefinitionParams) -> list[types.Location]:
    """Where a name is defined, here, in a file in use, or in what ships."""
    text = ls.open_text(params.text_document.uri)
    word = text.word(params.position)
    places = [] if word is None else origins(text.document, word)
    located = (messages.location(p, text.document, text.uri, text.lines) for p in places)
    return [x for x in located if x is not None]


@server.feature(types.TEXT_DOCUMENT_REFERENCES)
@guarded
def on_references(ls: CvServer, params: types.ReferenceParams) -> list[types.Location]:
    """Every place of this file that names the same thing."""
    text = ls.open_text(params.text_document.uri)
    word = text.word(params.position)
    found = [] if word is None else occurrences(text.document, word)
    return [types.Location(text.uri, text.range(w.start, w.end)) for w in found]


@server.feature(types.TEXT_DOCUMENT_DOCUMENT_SYMBOL)
@guarded
def on_symbols(ls: CvServer, params: types.DocumentSymbolParams) -> list[types.DocumentSymbol]:
    """The outline."""
    text = ls.open_text(params.text_document.uri)
    return [messages.symbol(s, text.lines) for s in outline(text.document)]


@server.feature(types.TEXT_DOCUMENT_FORMATTING)
@guarded
def on_formatting(ls: CvServer, params: types.DocumentFormattingParams) -> list[types.TextEdit]:
    """The text as `curvlang fmt` writes it; a text with mistakes of syntax stays as it is."""
    text = ls.open_text(params.text_document.uri)
    try:
        made = format_source(text.document.source)
    except SpecError:
        return []
    if made == text.document.text:
        return []
    return [types.TextEdit(text.range(0, len(text.document.text)), made)]


@server.feature(
    types.TEXT_DOCUMENT_CODE_ACTION,
    types.CodeActionOptions(code_action_kinds=[types.CodeActionKind.QuickFix]),
)
@guarded
def on_code_action(ls: CvServer, params: types.CodeActionParams) -> list[types.CodeAction]:
    """The repairs of the diagnostics in a range that an editor can make."""
    uri = params.text_document.uri
    text = ls.open_text(uri)
    asked = text.offset(params.range.start), text.offset(params.range.end)
    return messages.actions(text.document, uri, text.lines, asked)


@server.feature(types.TEXT_DOCUMENT_PREPARE_RENAME)
@guarded
def on_prepare_rename(ls: CvServer, params: types.PrepareRenameParams) -> types.Range | None:
    """The word that a renaming would replace."""
    text = ls.open_text(params.text_document.uri)
    word = text.word(params.position)
    if word is None or word.role not in RENAMED or not occurrences(text.document, word):
        return None
    return text.range(word.start, word.end)


@server.feature(types.TEXT_DOCUMENT_RENAME, types.RenameOptions(prepare_provider=True))
@guarded
def on_rename(ls: CvServer, params: types.RenameParams) -> types.WorkspaceEdit | None:
    """Another name for what this file defines, or the reason why not."""
    text = ls.open_text(params.text_document.uri)
    word = text.word(params.position)
    if word is None:
        return None
    try:
        found = rename(text.document, word, params.new_name)
    except SpecError as error:
        raise JsonRpcException(error.diagnostics[0].headline, REQUEST_FAILED) from error
    edits = [types.TextEdit(text.range(w.start, w.end), params.new_name) for w in found]
    return types.WorkspaceEdit({text.uri: edits})


def serve() -> None:
    """Speak over standard input and output until the editor ends it."""
    server.start_io()
