"""One table: every entry has what builds it, and every reader of a default has the table's."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path

import pytest

import curvlang as cv
from curvlang.attribution import curvature_free
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.editors.completion import complete
from curvlang.editors.document import Document
from curvlang.editors.hover import hover
from curvlang.evaluation.measures import tables as measures
from curvlang.evaluation.protocol import protocol_from
from curvlang.evaluation.request_checks import sweep_of
from curvlang.language import check_text, part_text
from curvlang.language.bodies.values import show
from curvlang.language.chain import Part
from curvlang.language.checking.arguments import checked
from curvlang.language.checking.shipped import describe, shipped
from curvlang.language.registry import (
    BASELINES,
    DATA,
    GRID,
    INVERSES,
    LDS,
    LOSSES,
    MEASURES,
    METRICS,
    MODELS,
    NAMED,
    OPTIMISERS,
    SEEDS,
    SOLVERS,
    STAGES,
)
from curvlang.language.registry.kinds import taken
from curvlang.models import builtin
from curvlang.models.architectures.cnn import Convolutions
from curvlang.models.architectures.decoder import DecoderSizes
from curvlang.models.architectures.mlp import ACTIVATIONS, POOLING
from curvlang.models.data.fields import IGNORED
from curvlang.models.files.file_data import FileColumns
from curvlang.models.language_models.text_data import TextSource
from curvlang.models.losses import losses
from curvlang.models.losses.metric import CLASS_METRICS
from curvlang.models.table_rows.columns import TextColumns

TABLES = {**NAMED, "solve": SOLVERS, "stage": STAGES, "lds": {"lds": LDS}}
ENTRIES = [(kind, name) for kind, table in TABLES.items() for name in table]
DOCS = Path(__file__).parents[3] / "docs"


def keywords(function, leave=()):
    """Names that a function takes beside those that are not of the table."""
    found = inspect.signature(function).parameters.values()
    return {p.name for p in found if p.kind is not p.VAR_KEYWORD} - set(leave)


@pytest.mark.parametrize(("kind", "name"), ENTRIES)
def test_defaults_fit_and_everything_has_its_line(kind, name):
    entry = TABLES[kind][name]
    assert entry.doc
    for key, parameter in entry.parameters.items():
        assert parameter.doc, key
        assert not parameter.doc.endswith(".")
        if parameter.default is not None:
            found = checked(key, parameter.default, parameter)
            assert found == parameter.default
            assert type(found) is type(parameter.default)
        assert not parameter.needs or parameter.needs in entry.parameters
    assert not entry.first or entry.first in entry.parameters


def test_every_entry_is_built_and_nothing_else():
    assert set(builtin.DATA) == set(DATA)
    assert {*builtin.MODELS, builtin.PRETRAINED} == set(MODELS)
    assert set(losses.LOSSES) == set(LOSSES)
    assert set(curvature_free.BASELINES) == set(BASELINES)
    assert set(measures.MEASURES) == set(MEASURES)
    assert {"loss", *CLASS_METRICS} == set(METRICS)
    assert set(ACTIVATIONS) == set(MODELS["mlp"].parameters["activation"].kind.words)
    assert set(POOLING) == set(MODELS["mlp"].parameters["positions"].kind.words)


@pytest.mark.parametrize("name", sorted(DATA))
def test_data_is_built_from_its_parameters(name):
    if name == "python":
        assert keywords(builtin.DATA[name]) == {"function", "arguments", "loss"}
    elif name == "file":
        assert {f.name for f in dataclasses.fields(FileColumns)} == set(DATA[name].parameters)
    elif name == builtin.TEXTS:
        given = {f.name for kind in (TextSource, TextColumns) for f in dataclasses.fields(kind)}
        assert given - {"columns"} == set(DATA[name].parameters)
    else:
        assert keywords(builtin.DATA[name]) == set(DATA[name].parameters)


@pytest.mark.parametrize(("name", "made"), [("cnn", Convolutions), ("decoder", DecoderSizes)])
def test_models_are_built_from_their_parameters(name, made):
    fields = {f.name for f in dataclasses.fields(made)}
    assert fields == set(MODELS[name].parameters) - {"weights"}


@pytest.mark.parametrize("name", sorted(BASELINES))
def test_baselines_are_computed_from_their_parameters(name):
    assert keywords(curvature_free.BASELINES[name], ["given"]) == set(BASELINES[name].parameters)


@pytest.mark.parametrize("name", sorted(MEASURES))
def test_measures_are_computed_from_their_parameters(name):
    assert keywords(measures.MEASURES[name], ["given"]) == set(MEASURES[name].parameters)


@pytest.mark.parametrize("table", [builtin.DATA, curvature_free.BASELINES, measures.MEASURES])
def test_no_builder_has_defaults_of_its_own(table):
    for build in table.values():
        found = inspect.signature(build).parameters.values()
        assert [p.name for p in found if p.default is not p.empty] == []


@pytest.mark.parametrize("name", sorted(OPTIMISERS))
def test_a_recipe_has_the_defaults_of_a_train_line(name):
    entry = OPTIMISERS[name]
    recipe = cv.Recipe(optimiser=name)
    assert {key: getattr(recipe, key) for key in entry.parameters} == entry.defaults
    assert recipe == builtin.recipe_from(Part(name, {})) == dataclasses.replace(recipe)
    assert recipe == builtin.recipe_from(part_text("train", name, "<train>"))
    fields = {f.name for f in dataclasses.fields(cv.Recipe)}
    assert fields == {"optimiser"}.union(*(x.parameters for x in OPTIMISERS.values()))


def test_a_protocol_has_the_defaults_of_an_lds_line():
    fields = {f.name: getattr(cv.LDS(), f.name) for f in dataclasses.fields(cv.LDS)}
    assert fields == {**LDS.defaults, "queries": None}
    assert cv.LDS() == protocol_from(LDS.defaults) == cv.LDS(queries=None) == cv.LDS(queries="all")


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_a_loss_has_the_defaults_of_a_loss_line(name):
    made = losses.LOSSES[name]
    assert {key: getattr(made, key) for key in LOSSES[name].parameters} == LOSSES[name].defaults
    assert losses.loss_from(Part(name, {})) == made
    assert LOSSES["cross_entropy"].defaults["ignore_index"] == IGNORED


def test_keys_of_kept_ground_truth_stay():
    """The settings of recipes enter the keys: a changed type or default would start the cache over."""
    assert repr(cv.Recipe()) == (
        "Recipe(lr=0.03, momentum=0.0, batch=32, epochs=100, schedule='cosine', weight_decay=0.0, "
        "optimiser='sgd', nesterov=False, beta1=0.9, beta2=0.999, eps=1e-08, warmup=0, clip=0.0)"
    )
    assert repr(cv.LDS()) == (
        "LDS(subsets=100, keep=0.5, retrains=5, queries=None, initialisation='fresh', seed=0, "
        "bootstrap=1000, groups='random')"
    )


@pytest.mark.parametrize(("kind", "name"), ENTRIES)
def test_editors_and_documents_say_the_same(kind, name):
    entry = TABLES[kind][name]
    text = {
        "stage": f"curvature x = hessian |> {name}(",
        "solve": f"evaluate ggn on digits {{ solve {name}(",
        "lds": "evaluate ggn on digits { lds ",
    }.get(kind, f"task t {{ {kind} {name}(" if kind in NAMED else "")
    if kind in ("baselines", "measures"):
        text = f"study s {{ path ggn {kind} {name}("
    found = {c.text: c.detail for c in complete(Document("x.cv", text), len(text))}
    page = (DOCS / "parameters.md").read_text("utf-8")
    for key, parameter in entry.parameters.items():
        assert found[key] == f"{describe(parameter)}: {parameter.doc}"
        assert f"| `{key}` |" in page
        whole = f"{text}{key} = 1"
        document = Document("x.cv", whole)
        word = document.reading.word_at(len(text))
        shown = hover(document, word)
        assert parameter.doc in shown
        assert describe(parameter) in shown
    signatures = {x.name: x.signature for x in shipped() if x.kind not in ("law", "curvature")}
    assert all(f"{k}: {describe(p)}" in signatures[name] for k, p in entry.parameters.items())


WRONG = [
    ("train", "sgd", "lr", -1, lambda: cv.Recipe(lr=-1)),
    ("train", "sgd", "lr", 0, lambda: cv.Recipe(lr=0)),
    ("train", "sgd", "batch", 2.5, lambda: cv.Recipe(batch=2.5)),
    ("train", "sgd", "batch", True, lambda: cv.Recipe(batch=True)),
    ("train", "sgd", "schedule", "cosin", lambda: cv.Recipe(schedule="cosin")),
    ("train", "sgd", "nesterov", 1, lambda: cv.Recipe(nesterov=1)),
    ("train", "sgd", "nesterov", True, lambda: cv.Recipe(nesterov=True)),
    ("train", "adam", "momentum", 0.9, lambda: cv.Recipe(optimiser="adam", momentum=0.9)),
    ("train", "adam", "beta1", 1, lambda: cv.Recipe(optimiser="adam", beta1=1)),
    ("loss", "cross_entropy", "positions", "all", lambda: cv.CrossEntropy("all")),
    ("loss", "cross_entropy", "label_smoothing", 2, lambda: cv.CrossEntropy(label_smoothing=2)),
    ("loss", "cross_entropy", "weight", (1, -1), lambda: cv.CrossEntropy(weight=(1, -1))),
    ("loss", "bce_with_logits", "pos_weight", "x", lambda: cv.BinaryCrossEntropy("x")),
    ("lds", "lds", "keep", 1.5, lambda: cv.LDS(keep=1.5)),
    ("lds", "lds", "subsets", 1, lambda: cv.LDS(subsets=1)),
    ("lds", "lds", "queries", 0, lambda: cv.LDS(queries=0)),
    ("lds", "lds", "groups", "on", lambda: cv.LDS(groups="on")),
    ("inverse", "tikhonov", "damping", -1, lambda: sweep_of([0.1, -1])),
]


def written(value):
    match value:
        case bool():
            return str(value).lower()
        case tuple():
            return "[" + ", ".join(map(written, value)) + "]"
        case _:
            return str(value)


@pytest.mark.parametrize(("kind", "name", "key", "value", "python"), WRONG)
def test_a_wrong_value_has_one_wording(kind, name, key, value, python):
    """From a spec, from the text of an option, and from Python."""
    argument = f"{key} = {written(value)}"
    spec = {
        "lds": f"evaluate ggn on digits {{ lds {argument} }}",
        "inverse": f"evaluate ggn with {name}({argument}) on digits",
    }.get(kind) or (
        "task t { data digits "
        + " ".join(
            f"{k} {f'{name}({argument})' if k == kind else default}"
            for k, default in {"model": "mlp", "loss": "mse", "train": "sgd"}.items()
        )
        + " }"
    )
    (stated,) = check_text(spec)
    found = [stated]
    assert stated.labels
    if kind in ("train", "loss"):
        with pytest.raises(SpecError) as caught:
            part_text(kind, f"{name}({argument})", "<--option>")
        found += caught.value.diagnostics
    with pytest.raises(SpecError) as caught:
        python()
    (given,) = caught.value.diagnostics
    assert {(d.code, d.headline) for d in (*found, given)} == {(stated.code, stated.headline)}
    assert given.help
    message = stated.labels[0].message
    assert not message.startswith("must") or f"it {message}" in given.help


def test_limits_of_grids_and_inverses():
    assert SEEDS.default == taken(1, SEEDS.kind)
    assert GRID.kind == INVERSES["damping"].kind


def test_defaults_that_pages_write_by_hand_are_the_tables():
    text = (DOCS / "studies.md").read_text("utf-8")
    rows = re.findall(r"^\| `(baselines|measures) (\w+)\(([^)]*)\)` ", text, re.MULTILINE)
    assert {name for _, name, _ in rows} >= {"mislabelled", "brittleness", "metagradient"}
    for kind, name, inside in [row for row in rows if row[1] in NAMED[row[0]]]:
        defaults = NAMED[kind][name].defaults
        for key, value in re.findall(r"(\w+) = ([^,]+)", inside):
            assert show(defaults.get(key, value)) == value, (name, key)
    tasks = (DOCS / "tasks.md").read_text("utf-8")
    for key, value in re.findall(r"`test = ([\d.]+), seed = (\d)`", tasks):
        assert (float(key), int(value)) == (
            DATA["file"].defaults["test"],
            DATA["file"].defaults["seed"],
        )
