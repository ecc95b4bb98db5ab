"""The language server as an editor sees it: a process of its own, spoken to by pygls' client."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from curvlang.editors.positions import Lines
from curvlang.language.syntax.files import shipped_files
from curvlang.language.syntax.formatter import format_text

types = pytest.importorskip("lsprotocol.types", reason="the extra `lsp` is not installed")
client_module = pytest.importorskip("pygls.lsp.client", reason="the extra `lsp` is not installed")

COMMAND = [sys.executable, "-c", "from curvlang.cli.main import main; main()", "lsp", "--stdio"]
LIMIT = 20
SPEC = """use "other.cv"
# Mine: 𝛼 and σ².
curvature mine = block_ggn |> kronecker_factor(sharing = reduce) |> eigen_correct
transform half {
  "σ: 𝛼 halves"
  needs a[n,t,i], A[i,i']
  V[i,k], _[k] = eigh(A)
  B[i,k] = sum[i'] A[i,i'] * V[i',k]
  yield C[o,i,o',i'] = identity[o,o'] * (sum[k] B[i,k] * B[i',k])
}
curvature third = theirs |> half
evaluate mine with tikhonov(damping = 1) on digits { error against hessian }
"""
OTHER = "curvature theirs = block_ggn |> kronecker_factor\n"


class Editor:
    """What an editor does, a call each; `shown` holds the diagnostics that were published last."""

    def __init__(self, folder):
        self.folder = folder
        self.loop = asyncio.new_event_loop()
        self.client = client_module.LanguageClient("test", "1")
        self.shown, self.log, self.versions = {}, [], []
        self.published = asyncio.Event()

        @self.client.feature("textDocument/publishDiagnostics")
        def publish(params):
            self.shown[params.uri] = params
            self.versions.append((params.uri, params.version))
            self.published.set()

        @self.client.feature("window/logMessage")
        def log(params):
            self.log.append(params.message)

        self.run(self.client.start_io(*COMMAND))
        self.answer = self.run(
            self.client.initialize_async(
                types.InitializeParams(
                    capabilities=types.ClientCapabilities(), root_uri=folder.as_uri()
                )
            )
        )
        self.client.initialized(types.InitializedParams())

    def run(self, awaitable):
        return self.loop.run_until_complete(asyncio.wait_for(awaitable, LIMIT))

    def close(self):
        self.run(self.client.shutdown_async(None))
        self.client.exit(None)
        self.run(self.client.stop())
        self.loop.close()

    async def _diagnostics(self, uri, version):
        while uri not in self.shown or self.shown[uri].version != version:
            self.published.clear()
            await self.published.wait()
        return list(self.shown[uri].diagnostics)

    def open(self, text, name="x.cv"):
        uri = (self.folder / name).as_uri()
        item = types.TextDocumentItem(uri, "curvlang", 1, text)
        self.shown.pop(uri, None)
        self.client.text_document_did_open(types.DidOpenTextDocumentParams(item))
        return uri, self.run(self._diagnostics(uri, 1))

    def change(self, uri, version, text):
        change = types.TextDocumentContentChangeWholeDocument(text)
        document = types.VersionedTextDocumentIdentifier(version=version, uri=uri)
        self.client.text_document_did_change(types.DidChangeTextDocumentParams(document, [change]))

    def changed(self, uri, version, text):
        self.change(uri, version, text)
        return self.run(self._diagnostics(uri, version))

    def ask(self, method, kind, uri, position, **more):
        document = types.TextDocumentIdentifier(uri)
        call = getattr(self.client, f"text_document_{method}_async")
        return self.run(call(kind(text_document=document, position=position, **more)))


@pytest.fixture(scope="module")
def editor(tmp_path_factory):
    folder = tmp_path_factory.mktemp("editor")
    (folder / "other.cv").write_text(OTHER, "utf-8")
    made = Editor(folder)
    yield made
    made.close()
    assert made.log == []


def position(text, words, shift=0):
    """The position of the first place where these words stand, in UTF-16 units."""
    at = text.index(words) + shift
    line = text.count("\n", 0, at)
    before = text[text.rfind("\n", 0, at) + 1 : at]
    return types.Position(line, len(before.encode("utf-16-le")) // 2)


def hover(editor, uri, text, words, shift=0):
    found = editor.ask("hover", types.HoverParams, uri, position(text, words, shift))
    return None if found is None else found.contents.value


def definition(editor, uri, text, words, shift=0):
    return editor.ask("definition", types.DefinitionParams, uri, position(text, words, shift))


def complete(editor, uri, text, words, shift=0):
    found = editor.ask("completion", types.CompletionParams, uri, position(text, words, shift))
    return [x.label for x in sorted(found.items, key=lambda x: x.sort_text)]


def test_what_it_offers(editor):
    offered = editor.answer.capabilities
    for feature in (
        "hover_provider", "completion_provider", "definition_provider", "references_provider",
        "document_symbol_provider", "document_formatting_provider", "rename_provider",
    ):  # fmt: skip
        assert getattr(offered, feature), feature
    assert offered.position_encoding == "utf-16"


def test_a_good_text_has_no_diagnostics(editor):
    assert editor.open(SPEC)[1] == []


def test_diagnostics_as_you_type(editor):
    uri, found = editor.open("# 𝛼σ\ncurvature x = hessian |> drop_residuals")
    (wrong,) = found
    assert (wrong.code, wrong.source) == ("E0209", "curvlang")
    assert wrong.code_description.href.endswith("E0209.md")
    assert wrong.severity == types.DiagnosticSeverity.Error
    assert "did you mean `drop_residual`" in wrong.message
    assert wrong.range == types.Range(types.Position(1, 25), types.Position(1, 39))
    assert editor.changed(uri, 2, "curvature x = hessian |> drop_residual") == []
    (empty,) = editor.changed(uri, 3, "")
    assert empty.code == "E0112"


def test_columns_count_utf16_units(editor):
    text = 'curvature x = "𝛼σ" hessian |> nothing'
    (wrong,) = editor.open(text, "units.cv")[1]
    assert wrong.range.start == position(text, "nothing")
    assert wrong.range.start.character == text.index("nothing") + 1


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_only_line_breaks_break_lines(editor, end):
    text = f"# a{end}# \u2028 b{end}curvature x = hessian |> nothing"
    (wrong,) = editor.open(text, f"lines{len(end)}.cv")[1]
    assert wrong.range.start == types.Position(2, 25)


def test_several_places_are_related(editor):
    text = "curvature x = ggn\ncurvature x = kfac\n"
    uri, found = editor.open(text, "twice.cv")
    (wrong,) = [d for d in found if d.code == "E0201"]
    assert wrong.range.start.line == 1
    (first,) = wrong.related_information
    assert first.location.uri == uri
    assert first.location.range.start.line == 0
    assert "first here" in first.message


def test_a_mistake_in_a_file_in_use_stands_at_its_use(editor):
    (editor.folder / "broken.cv").write_text("# a\ncurvature y = \n")
    found = editor.open('curvature x = ggn\nuse "broken.cv"\n', "user.cv")[1]
    assert found
    assert found[0].range.start.line == 1
    assert found[0].related_information[0].location.uri.endswith("broken.cv")


def test_a_warning_is_one(editor):
    (found,) = editor.open("transform diagonal { yield C[p,p'] = 2 * identity[p,p'] }", "warn.cv")[
        1
    ]
    assert (found.code, found.severity) == ("E0202", types.DiagnosticSeverity.Warning)


def test_hover(editor):
    uri, _ = editor.open(SPEC, "hover.cv")
    chain = hover(editor, uri, SPEC, "mine =")
    assert "Mine: 𝛼 and σ²." in chain
    for line in ("| `hessian` | `hessian` | Dense", "Gram", "Kronecker, each layer", "EigenBasis"):
        assert line in chain
    stage = hover(editor, uri, SPEC, "kronecker_factor")
    for words in ("sharing: {expand, reduce} = expand", "needs `a[n,t,i]`", "arXiv:1503.05671"):
        assert words in stage
    assert "defined by `kronecker_factor`" in hover(editor, uri, SPEC, "A[i,i']\n")
    tensor = hover(editor, uri, SPEC, "V[i',k]")
    assert "`k`: a space made by `V[i,k], _[k] = eigh(A)`" in tensor
    assert "`i`: input feature" in tensor
    assert hover(editor, uri, SPEC, "n,t,i") == "`n`: training example"
    assert "eigenvectors" in hover(editor, uri, SPEC, "eigh")
    assert "s -> 1 / (s + damping)" in hover(editor, uri, SPEC, "tikhonov")
    assert "damping = 0.1 * mean(s)" in hover(editor, uri, SPEC, "damping = 1")
    assert "σ: 𝛼 halves" in hover(editor, uri, SPEC, "half\n")
    assert hover(editor, uri, SPEC, "# Mine") is None


def test_hover_shows_why_there_is_no_structure(editor):
    text = "curvature x = block_ggn |> eigen_correct\n"
    uri, _ = editor.open(text, "unfit.cv")
    assert hover(editor, uri, text, "x =").startswith("```cv\ncurvature x")


def test_completion_of_stages(editor):
    text = "curvature x = block_ggn |> \n"
    uri, _ = editor.open(text, "stages.cv")
    found = complete(editor, uri, text, "|> ", 3)
    assert found.index("kronecker_factor") < found.index("eigen_correct")
    assert found.index("diagonal") < found.index("drop_residual")
    text = "curvature x = block_ggn |> kronecker_factor |> eig\ncurvature y = ggn\n"
    uri, _ = editor.open(text, "stages2.cv")
    found = complete(editor, uri, text, "eig", 3)
    assert found.index("eigen_correct") < found.index("block_diagonal")
    text = "curvature y = 0.5 * (hessian |> ) + 0.5 * ggn"
    uri, _ = editor.open(text, "stages3.cv")
    found = complete(editor, uri, text, "|> ", 3)
    assert found.index("drop_residual") < found.index("kronecker_factor")


def test_completion_elsewhere(editor):
    uri, _ = editor.open(SPEC, "complete.cv")
    assert complete(editor, uri, SPEC, "reduce)") == ["expand", "reduce"]
    assert complete(editor, uri, SPEC, "sharing") == ["others", "sharing"]
    found = complete(editor, uri, SPEC, "block_ggn")
    assert found[:3] == ["hessian", "mine", "third"]
    assert "block_ggn" in found
    assert "theirs" in complete(editor, uri, SPEC, "block_ggn")
    assert set(complete(editor, uri, SPEC, "tikhonov")) >= {"tikhonov", "pseudo", "absolute"}
    named = ("adam", "checkpoints", "cnn", "models", "segments")
    tasks = ["characters", "diabetes", "digits", *(f"digits_{x}" for x in named)]
    assert complete(editor, uri, SPEC, "digits") == tasks
    body = complete(editor, uri, SPEC, "A[i,i'] * V")
    assert body[:4] == ["A[i,i']", "V[i,k]", "a[n,t,i]", "C[o,i,o',i']"]
    assert {"k", "n", "t", "i"} <= set(complete(editor, uri, SPEC, "k] B[i,k] *"))
    assert complete(editor, uri, SPEC, "transform half")[0] == "curvature"
    assert complete(editor, uri, SPEC, "# Mine", 3) == []
    assert "other.cv" in complete(editor, uri, SPEC, "other.cv")


def test_definition(editor):
    uri, _ = editor.open(SPEC, "definition.cv")
    (own,) = definition(editor, uri, SPEC, "mine with")
    assert (own.uri, own.range.start) == (uri, position(SPEC, "mine ="))
    (other,) = definition(editor, uri, SPEC, "theirs")
    assert other.uri == (editor.folder / "other.cv").as_uri()
    assert other.range.start == types.Position(0, 10)
    (shipped,) = definition(editor, uri, SPEC, "eigen_correct")
    path = Path(shipped.uri.removeprefix("file://"))
    assert path.name == "prelude.cv"
    line = path.read_text("utf-8").split("\n")[shipped.range.start.line]
    assert line.startswith("transform eigen_correct")
    (tensor,) = definition(editor, uri, SPEC, "V[i',k]")
    assert tensor.range.start == position(SPEC, "V[i,k], _")
    (parameter,) = definition(editor, uri, SPEC, "sharing")
    assert parameter.uri == shipped.uri
    (file,) = definition(editor, uri, SPEC, "other.cv")
    assert file.uri == (editor.folder / "other.cv").as_uri()
    assert not definition(editor, uri, SPEC, "# Mine")


def test_references_and_rename(editor):
    uri, _ = editor.open(SPEC, "rename.cv")
    found = editor.ask(
        "references", types.ReferenceParams, uri, position(SPEC, "mine ="),
        context=types.ReferenceContext(include_declaration=True),
    )  # fmt: skip
    assert [x.range.start.line for x in found] == [2, 11]
    edit = editor.ask("rename", types.RenameParams, uri, position(SPEC, "B[i,k]"), new_name="Half")
    assert len(edit.changes[uri]) == 3
    for words, name in (("B[i,k]", "V"), ("mine =", "third"), ("mine =", "2x"), ("mine =", "use")):
        with pytest.raises(Exception, match=r"taken|cannot be a name"):
            editor.ask("rename", types.RenameParams, uri, position(SPEC, words), new_name=name)
    with pytest.raises(Exception, match="not defined in this file"):
        editor.ask(
            "rename", types.RenameParams, uri, position(SPEC, "eigen_correct"), new_name="mend"
        )


def test_formatting_and_outline(editor):
    text = "curvature   x=hessian # 𝛼\n|>drop_residual"
    uri, _ = editor.open(text, "format.cv")
    document = types.TextDocumentIdentifier(uri)
    options = types.FormattingOptions(2, True)
    ask = lambda: editor.run(  # noqa: E731
        editor.client.text_document_formatting_async(
            types.DocumentFormattingParams(document, options)
        )
    )
    (edit,) = ask()
    assert edit.new_text == format_text(text)
    assert edit.range.start == types.Position(0, 0)
    assert edit.range.end == types.Position(1, 15)
    editor.changed(uri, 2, edit.new_text)
    assert not ask()
    editor.changed(uri, 3, "curvature x = (")
    assert not ask()
    uri, _ = editor.open(SPEC, "outline.cv")
    found = editor.run(
        editor.client.text_document_document_symbol_async(
            types.DocumentSymbolParams(types.TextDocumentIdentifier(uri))
        )
    )
    assert [x.name for x in found] == ["mine", "half", "third", "mine"]
    assert [x.name for x in found[1].children] == ["V", "B"]


FIXES = {
    "a curvature": ("evaluate kfca on digits\n", "kfca", "evaluate kfac on digits\n"),
    "a stage": ("curvature x = hessian |> drop_residul\n", "drop_residul", "curvature x = hessian |> drop_residual\n"),
    "a parameter": ("curvature x = ggn |> block_diagonal(bye = layer)\n", "bye", "curvature x = ggn |> block_diagonal(by = layer)\n"),
    "a word": ("curvature x = hessian |> drop_residual(fisher = exat)\n", "exat", "curvature x = hessian |> drop_residual(fisher = exact)\n"),
    "an inverse": ("evaluate kfac with tikhonv on digits\n", "tikhonv", "evaluate kfac with tikhonov on digits\n"),
    "a task": ("evaluate kfac on digts\n", "digts", "evaluate kfac on digits\n"),
    "a keyword": ("curvatur x = ggn\n", "curvatur", "curvature x = ggn\n"),
    "a pipe": ("curvature x = hessian | drop_residual\n", "|", "curvature x = hessian |> drop_residual\n"),
    "an arrow": ("curvature x = hessian => drop_residual\n", "=>", "curvature x = hessian |> drop_residual\n"),
    "a power": ("transform x {\n  s = 2 ** 3\n}\n", "**", "transform x {\n  s = 2 ^ 3\n}\n"),
    "a product": ("transform x {\n  s = 2 · 3\n}\n", "·", "transform x {\n  s = 2 * 3\n}\n"),
    "a missing product": ("transform x {\n  needs a[n,t,i]\n  B[n,t,i] = 2 a[n,t,i]\n}\n", "a[n,t,i]\n}", "transform x {\n  needs a[n,t,i]\n  B[n,t,i] = 2 * a[n,t,i]\n}\n"),
    "a word too many": ("transform x {\n  let s = 2\n}\n", "let", "transform x {\n   s = 2\n}\n"),
    "a comment": ("// mine\ncurvature x = ggn\n", "//", "# mine\ncurvature x = ggn\n"),
    "an open block": ("transform x {\n  s = 1\n", "1", "transform x {\n  s = 1\n}\n\n"),
    "a missing part": (
        "task t {\n  data digits\n  model mlp\n  loss cross_entropy\n}\n", "t {",
        "task t {\n  data digits\n  model mlp\n  loss cross_entropy\n  train sgd\n}\n",
    ),
    "a part twice": (
        "task t {\n  data digits\n  model mlp\n  loss cross_entropy\n  loss mse\n  train sgd\n}\n", "loss mse",
        "task t {\n  data digits\n  model mlp\n  loss cross_entropy\n  \n  train sgd\n}\n",
    ),
    "a line twice": (
        "evaluate kfac on digits {\n  lds subsets = 4\n  lds subsets = 8\n}\n", "lds subsets = 8",
        "evaluate kfac on digits {\n  lds subsets = 4\n  \n}\n",
    ),
}  # fmt: skip
"""A text, where its mistake stands, and the text after the quick fix."""


def fixes(editor, uri, text, words):
    place = position(text, words)
    found = editor.run(
        editor.client.text_document_code_action_async(
            types.CodeActionParams(
                text_document=types.TextDocumentIdentifier(uri),
                range=types.Range(place, place),
                context=types.CodeActionContext(diagnostics=[]),
            )
        )
    )
    return found or []


def applied(text, change):
    lines = Lines(text, types.PositionEncodingKind.Utf16)
    start, end = (lines.offset(x.line, x.character) for x in (change.range.start, change.range.end))
    return text[:start] + change.new_text + text[end:]


@pytest.mark.parametrize(("text", "words", "wanted"), FIXES.values(), ids=FIXES)
def test_a_mistake_has_a_quick_fix(editor, text, words, wanted):
    uri, found = editor.open(text, "fix.cv")
    assert found
    action, *_ = fixes(editor, uri, text, words)
    assert action.kind == types.CodeActionKind.QuickFix
    assert action.title in "\n".join(d.message for d in action.diagnostics)
    (change,) = action.edit.changes[uri]
    made = applied(text, change)
    assert made == wanted
    left = {d.code for d in editor.changed(uri, 2, made)}
    assert action.diagnostics[0].code not in left


def test_a_good_place_has_no_quick_fix(editor):
    text = "# kfca\ncurvature x = ggn\n\ncurvature y = gnn\n"
    uri, _ = editor.open(text, "good.cv")
    assert fixes(editor, uri, text, "x = ggn") == []
    assert [x.title for x in fixes(editor, uri, text, "gnn")] == ["did you mean `ggn`?"]


def test_it_lives_on_while_a_text_is_typed(editor):
    text = shipped_files()["prelude"][:900]
    uri, _ = editor.open("x", "typed.cv")
    for version, cut in enumerate(range(0, len(text), 23), 2):
        editor.change(uri, version, text[:cut])
        at = types.Position(text[:cut].count("\n"), 1)
        editor.ask("hover", types.HoverParams, uri, at)
        editor.ask("completion", types.CompletionParams, uri, at)
        editor.ask("definition", types.DefinitionParams, uri, at)
    for text in ("\0", "{" * 500, "((((" * 300, "\ud83d", 'use "\nuse', "curvature x = x\n" * 50):
        version += 1
        editor.changed(uri, version, text)
    assert editor.changed(uri, version + 1, "curvature x = ggn") == []


def test_a_pause_is_waited_for(editor):
    uri, _ = editor.open("curvature x = ggn", "pause.cv")
    for version in range(2, 12):
        editor.change(uri, version, f"curvature x{version} = nothing")
    (wrong,) = editor.run(editor._diagnostics(uri, 11))
    assert wrong.code == "E0206"
    assert [v for u, v in editor.versions if u == uri] == [1, 11]


def test_without_pygls_the_repair_is_named(tmp_path):
    code = (
        "import sys; sys.modules['pygls'] = None; from curvlang.cli.main import run;"
        "sys.exit(run(['lsp']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 2
    assert "error[E1001]" in done.stderr
    assert "pip install 'curvlang[lsp]'" in done.stderr


def test_the_server_imports_no_torch():
    code = "import sys, curvlang.editors.server; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
