"""The site has every page once, its links lead somewhere, its reference every name; the playground needs no torch."""

from __future__ import annotations

import inspect
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from curvlang.cli.main import run

import curvlang as cv
from curvlang.language import shipped_files

ROOT = Path(__file__).parents[2]
SITE = ROOT / "docs" / "site"
CALL = "import json, sys, playground as p; print(json.dumps([getattr(p, n)(*v) for n, *v in json.load(sys.stdin)]))"
"""Run where nothing but Python's own library and the archive can be imported."""
WEIGHTED = """
transform weighted_inputs {
  needs a[n,t,i], g[n,r,t,o]
  w[n,t] = sum[%s] g[n,r,t,o]^2
  G[o,o'] = mean[n] sum[r,t] g[n,r,t,o] * g[n,r,t,o']
  B[i,i'] = mean[n] sum[t] w[n,t] * a[n,t,i] * a[n,t,i']
  yield C[o,i,o',i'] = G[o,o'] * B[i,i'] / max(trace(G), 1e-30)
}
curvature weighted = block_ggn |> weighted_inputs
""".lstrip()
SIZES = ([64, 16, 10], 1, 1617)


@pytest.fixture(scope="module")
def site():
    """The scripts of the site, as they import each other."""
    sys.path.insert(0, str(SITE))
    yield pytest.importorskip
    sys.path.remove(str(SITE))


@pytest.fixture(scope="module")
def pages(site):
    site("griffe", reason='the reference is read by griffe: pip install -e ".[docs]"')
    return site("pages")


@pytest.fixture(scope="module")
def texts(pages):
    """Every page as the generator reads it."""
    return pages.texts()


def flat(entries):
    """The pages of a navigation, in order."""
    for entry in entries:
        if isinstance(entry, str):
            yield entry
        else:
            for inside in entry.values():
                yield from flat([inside] if isinstance(inside, str) else inside)


def test_every_page_has_one_place(pages, texts):
    listed = list(flat(pages.navigation(texts)))
    assert sorted(listed) == sorted(x.as_posix() for x in texts)
    ours = {x.relative_to(ROOT / "docs") for x in (ROOT / "docs").rglob("*.md")}
    known = dict.fromkeys(texts, 1)
    assert {x for x in ours if x.parts[0] != "site" and x.name != "README.md"} <= known.keys()
    assert listed[:2] == ["index.md", "start.md"]


def test_a_page_that_no_section_names_is_not_lost(pages, texts):
    more = {**texts, Path("unheard.md"): "# New", Path("folder/of/pages.md"): "# Newer"}
    last = pages.navigation(more)[-1]["Project"]
    assert {"unheard.md", "folder/of/pages.md"} <= set(last)


def test_links_lead_to_pages_and_files(pages, texts):
    there = {*texts, *pages.written().values()}
    found = 0
    for place, text in texts.items():
        for address in re.findall(
            r"\]\((?!\w+:|#)([^)\s#]+)",
            re.sub(r"```.*?```|`[^`\n]*`(?!\])", "", text, flags=re.DOTALL),
        ):
            goal = Path(re.sub(r"[^/]+/\.\./", "", (place.parent / address).as_posix()))
            assert goal in there, f"{place}: {address}"
            found += 1
    assert found > 500


def test_a_link_to_what_the_site_lacks_is_refused(site):
    dialect = site("dialect")
    place = Path("/r/docs/a.md")
    where = {Path("/r/docs/b/c.md"): Path("b/c.md"), Path("/r/README.md"): Path("index.md")}.get
    text = "[`x`](b/c.md#d) `v[i](w)` [r](../README.md)\n```py\na[0](b)\n```\n"
    moved = "[`x`](../b/c.md#d) `v[i](w)` [r](../index.md)\n```py\na[0](b)\n```\n"
    assert dialect.relinked(text, place, Path("e/a.md"), where) == moved
    with pytest.raises(FileNotFoundError, match=r"a\.md: gone\.md"):
        dialect.relinked("[x](gone.md)", place, Path("a.md"), where)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("text\n* one\n* two", "text\n\n* one\n* two"),
        ("* one\n  * in it\n* two", "* one\n    * in it\n* two"),
        ("1. one\n   more\n\n   | a |\n   |---|", "1. one\n    more\n\n    | a |\n    |---|"),
        ("* one\n\n  ```cv\n  a\n    b\n  ```\nafter", "* one\n\n    ```cv\n    a\n      b\n    ```\nafter"),
        ("* one\nlazy\n* two", "* one\n    lazy\n* two"),
        ("```\ntext\n* no list\n```", "```\ntext\n* no list\n```"),
        (r"| `a \|> b` | \|s\| |", r"| `a |> b` | \|s\| |"),
    ],
)  # fmt: skip
def test_pages_are_written_for_the_generator(site, written, read):
    assert site("dialect").normalised(written) == read


# The reference ------------------------------------------------------------------------------------


def test_the_reference_has_every_public_name(texts):
    pages = "\n".join(x for place, x in texts.items() if place.parts[0] == "reference")
    for name in cv.__all__:
        if name != "__version__":
            assert len(re.findall(rf"^## {name} {{", pages, re.MULTILINE)) == 1, name
            assert re.search(rf"^\| \[`cv\.{name}`\]\(\w+\.md#cv\.{name}\) \| \S", pages, re.M), (
                name
            )


QUIET = {"check", "exhausted", "installation", "search"}
"""Functions that raise nothing of their own: what they find is what they return."""


def test_every_argument_and_every_error_is_described():
    functions = {name: x for name in cv.__all__ if inspect.isfunction(x := getattr(cv, name))}
    for name, function in functions.items():
        text = inspect.getdoc(function)
        for given in inspect.signature(function).parameters:
            assert re.search(rf"^    \*{{0,2}}{given}: ", text, re.M), (name, given)
    silent = {x for x, f in functions.items() if "\nRaises:\n" not in inspect.getdoc(f)}
    assert silent == QUIET


def test_methods_for_users_have_their_arguments(texts):
    """Those of the other rooms, which describe none, are left out."""
    pages = "\n".join(x for place, x in texts.items() if place.parts[0] == "reference")
    shown = set(re.findall(r"^### (\w+\.\w+)\(\)", pages, re.M))
    assert {"Task.to", "Task.pretrained", "FittedOperator.inverse", "Report.figure"} <= shown
    assert not shown & {"World.send", "StoredRows.odd", "CrossEntropy.factor", "Task.cuts"}


def test_codes_of_errors_lead_to_their_pages(texts):
    text = texts[Path("reference/scores.md")]
    assert "`SpecError`: [E0240](../diagnostics/E0240.md)" in text
    assert "\n## influence {: #cv.influence" in text


def test_the_figure_shows_the_study(pages):
    figure = sys.modules["figure"]
    drawn = figure.svg()
    rows = {r["label"]: r for r in figure._group(figure.groups())["rows"]}
    for label, shown in figure.NAMES.items():
        values = [x["lds"]["estimate"] for x in rows[label]["spots"]]
        assert drawn.count(f"<title>{shown}, λ") == len(values) * len(figure.LAYOUTS)
        assert f"{shown} at most {max(values):.2f}" in drawn


# The playground -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def calls(site, tmp_path_factory):
    """Calls of the playground where nothing but its archive is installed."""
    import zipfile

    folder = tmp_path_factory.mktemp("playground")
    site("vendor").bundle(folder / "playground.zip")
    with zipfile.ZipFile(folder / "playground.zip") as archive:
        archive.extractall(folder / "there")

    def made(*wanted):
        code = f"import sys; sys.path.insert(0, {str(folder / 'there')!r}); {CALL}"
        given = json.dumps(wanted)
        command = [sys.executable, "-I", "-S", "-c", code]
        found = subprocess.run(command, input=given, capture_output=True, text=True)
        assert found.returncode == 0, found.stderr
        return [json.loads(x) for x in json.loads(found.stdout)]

    return made


def plain(text):
    return re.sub(r"\x1b\[[\d;]*m", "", text)


def test_the_playground_works_without_torch_and_numpy(calls):
    draft, right = WEIGHTED % "o", WEIGHTED % "r,o"
    misspelt = "curvature mine = hessian |> kfax\n"
    wrong, fine, near, pretty, broken, shown, blocks, none = calls(
        ["check", draft],
        ["check", right],
        ["check", misspelt],
        ["formatted", "curvature  mine=ggn"],
        ["formatted", "curvature"],
        ["explained", right, "", *SIZES],
        ["explained", shipped_files()["ggn_by_unit"], "", *SIZES],
        ["explained", "", "", *SIZES],
    )
    assert "error[E0303]: the index `r` is free on the right" in plain(wrong["shown"])
    (label,) = wrong["problems"][0]["labels"]
    assert draft[label["start"] : label["end"]] == "g[n,r,t,o]"
    assert fine["shown"] == "playground.cv: 1 curvature, no errors"
    assert not fine["failed"]
    (repair,) = near["problems"][0]["repairs"]
    assert misspelt[repair["start"] : repair["end"]] == "kfax"
    assert pretty["text"] == "curvature mine = ggn\n"
    assert broken["failed"]
    assert "Kronecker: the factors over o,o' and over i,i' share no index" in shown["shown"]
    assert shown["curvatures"] == ["weighted"]
    assert "curvlang explain playground.cv --task" in blocks["shown"]
    assert none["failed"]


def test_the_playground_explains_as_the_command_does(calls):
    """The same statistics, to the same number of operations: the compiler is the same one."""
    text = shipped_files()["ekfac"]
    (shown,) = calls(["explained", text, "", *SIZES])
    expected = cv.explain("ekfac", cv.task(cv.TaskSource("digits").of(None)))
    assert expected.text(code=False).split("\n\n")[1] == shown["shown"].split("\n\n")[1]
    (direct,) = re.findall(r"S +(.* G) .*", shown["shown"])
    assert direct.split()[0] == "43"


def test_every_spec_that_ships_is_an_example(calls):
    (examples,) = calls(["examples"])
    assert {*shipped_files()} - {"prelude"} <= set(examples)
    answers = calls(*(["check", text] for text in examples.values()))
    assert [name for name, x in zip(examples, answers, strict=True) if x["failed"]] == []
    plans = calls(
        *(["explained", text, "", *SIZES] for text in examples.values() if "curvature " in text)
    )
    assert all("shown" in x and x["shown"] for x in plans)


def test_the_first_half_hour(tmp_path, monkeypatch, capsys):
    """Its Python, its spec and its commands are run; a small task takes the place of the default one."""
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "start.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    scope: dict[str, object] = {}
    exec(compile(code, "docs/start.md", "exec"), scope)
    assert scope["scores"].shape == (4, 1500)
    (shown,) = re.findall(r"```text\n(.*?)…\n```", text, re.DOTALL)
    printed = capsys.readouterr().out
    assert words(shown.splitlines()[0]) == words(printed.splitlines()[0])
    assert printed.count("helpful") == printed.count("harmful") == 8
    (spec,) = re.findall(r"```cv\n(.*?)```", text, re.DOTALL)
    Path("mine.cv").write_text(spec)
    commands = re.findall(r"^curvlang (.*mine\.cv.*)$", text, re.MULTILINE)
    assert [x.split()[0] for x in commands] == ["check", "explain", "eval"]
    for line in commands:
        small = ["--task", "digits(hidden = [2], epochs = 1)", "--no-lds"]
        assert run([*shlex.split(line), *(small if line.startswith("eval") else [])]) == 0
    assert "Kronecker" in capsys.readouterr().out


def words(line):
    return line.split()
