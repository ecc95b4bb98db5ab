"""`law`: every form of the contract, its types, its mistakes, its format."""

from __future__ import annotations

import pytest

from curvlang.diagnostics.diagnostic import Severity
from curvlang.diagnostics.render import render
from curvlang.diagnostics.source import Source
from curvlang.language import check_text, loads
from curvlang.language.chain import Comparison, Nearness, Property, Relation
from curvlang.language.checking.conditions import drawn
from curvlang.language.syntax.formatter import format_text
from curvlang.language.syntax.parser import parse

FORMS = """curvature mine = block_ggn |> kronecker_factor
law symmetric, positive_semidefinite, solves
law kfac is positive_semidefinite, solves
law hessian is not positive_semidefinite
law kfac equals block_ggn  when examples == 1 and positions == 1
law kfac equals block_ggn  when network is linear and loss is mse and positions == 1
law ekfac closer_to block_ggn than kfac
law kfac not closer_to block_ggn than ekfac by 1e-2
law trace(ekfac) equals trace(block_ggn) within 1e-9
law kfac differs_from block_ggn when examples > 1
law ggn equals autodiff(ggn) within 1e-10
law hessian equals ggn in each block when network is piecewise_linear
law ekfac_mc averages_to ekfac when bias is true and layers <= 2
law kfac equals mine when outputs != 2 and inputs >= 2 and positions are kept and loss is not mse
"""


def typed(text):
    (law,) = loads(text).laws
    return law


def test_every_form_checks_without_a_word():
    assert check_text(FORMS) == []
    assert len(loads(FORMS).laws) == 3 + 2 + 11


def test_a_law_without_subject_is_about_every_curvature_of_the_file():
    spec = loads("curvature a = ggn\ncurvature b = kfac\nlaw symmetric, solves")
    assert [law.text for law in spec.laws] == [
        "a: symmetric", "a: solves", "b: symmetric", "b: solves",
    ]  # fmt: skip


def test_statements_are_typed():
    law = typed("law trace(ekfac) equals trace(block_ggn) within 1e-9 when examples > 1")
    assert isinstance(law.statement, Comparison)
    assert (str(law.statement.left), law.statement.relation) == ("trace(ekfac)", Relation.EQUALS)
    assert (law.bound, law.exists, drawn(law.space).examples) == (1e-9, False, (2, 3, 4, 5))
    law = typed("law kfac not closer_to ggn than ekfac in each block by 1e-2")  # fmt: skip
    assert isinstance(law.statement, Nearness)
    assert (law.exists, law.blocks, law.bound) == (True, True, 1e-2)
    law = typed("law hessian is not positive_semidefinite")
    assert isinstance(law.statement, Property)
    assert law.exists


def test_columns_replace_those_of_the_chains():
    law = typed("law kfac equals block_ggn when columns are empirical")
    for quantity in law.quantities:
        kinds = [s.arguments["fisher"] for s in quantity.curvature.stages if s.name == "drop_residual"]  # fmt: skip
        assert kinds == ["empirical"]
    assert law.text == "kfac equals block_ggn when columns are empirical"


def test_conditions_narrow_what_is_drawn():
    law = typed(
        "law kfac equals ggn when network is not linear and loss is not mse and bias is false "
        "and examples > 10 and positions == 2 and positions are not kept"
    )
    space = drawn(law.space)
    assert "identity" not in space.activations
    assert space.layers == (2, 3)
    assert space.losses == ("cross_entropy", "bce_with_logits")
    assert space.biases == (False,)
    assert space.examples == (11, 12, 13, 14)
    assert (space.positions, space.pooling) == ((2,), ("averaged", "summed"))


K = "law kfac equals block_ggn "
MISTAKES = {
    "law": ("curvature a = ggn\nlaw symetric", "E0740", "did you mean `symmetric`"),
    "law of": ("law kfac is symetric", "E0740", "did you mean `symmetric`"),
    "negated": ("law kfac is not symmetric", "E0749", "positive_semidefinite"),
    "curvature": ("law kfca equals block_ggn", "E0206", "did you mean `kfac`"),
    "other curvature": ("law ekfac closer_to block_gnn than kfac", "E0206", "`block_ggn`"),
    "measure": ("law tracee(kfac) equals trace(ekfac)", "E0741", "did you mean `trace`"),
    "condition": (K + "when exmaples == 1", "E0742", "did you mean `examples`"),
    "word as number": (K + "when network == 1", "E0743", "network is linear"),
    "number as word": (K + "when examples is one", "E0743", "examples == 1"),
    "fraction": (K + "when examples == 1.5", "E0743", "whole number"),
    "unknown word": (K + "when loss is msee", "E0743", "did you mean `mse`"),
    "two kinds": ("law trace(kfac) equals block_ggn", "E0743", "same measure"),
    "blocks of a number": ("law norm(kfac) equals norm(ggn) in each block", "E0743", "matrices"),
    "contradiction": (K + "when examples == 1 and examples > 1", "E0744", "no task meets"),
    "too many": (K + "when examples > 1000", "E0744", "at most 64"),
    "no words left": (K + "when loss is mse and loss is not mse", "E0744", "no task meets"),
    "no columns": ("law hessian equals identity when columns are empirical", "E0745", "drop_residual"),
    "drawn and exact": ("law ekfac_mc averages_to ekfac when columns are exact", "E0745", "nothing to average"),
    "nothing drawn": ("law kfac averages_to ggn", "E0745", "fisher = mc"),
    "threshold": (K + "by 1e-3", "E0746", "write `within 0.001`"),
    "tolerance": ("law kfac differs_from ggn within 1e-3", "E0746", "write `by 0.001`"),
    "zero": (K + "within 0", "E0746", "above 0"),
    "nothing to speak of": ("law symmetric", "E0747", "defines none"),
    "autodiff": ("law kfac equals autodiff(kfac)", "E0748", "built-in stages"),
    "relation": ("law kfac equal block_ggn", "E0101", "`equals`"),
    "half": ("law kfac equals", "E0103", "a name"),
    "joined": (K + "when examples == 1, positions == 1", "E0101", "`and`"),
    "than": ("law kfac closer_to block_ggn", "E0103", "`than`"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_every_mistake_has_its_diagnostic(name):
    text, code, words = MISTAKES[name]
    found = [d for d in check_text(text, "x.cv") if d.severity is Severity.ERROR]
    assert code in [d.code for d in found], [(d.code, d.headline) for d in found]
    assert words in render([d for d in found if d.code == code])


def test_the_place_is_that_of_the_word():
    (found,) = check_text("law kfac equals block_ggn\n  when exmaples == 1", "x.cv")
    assert found.labels[0].span.text == "exmaples"


def test_the_format_is_kept_on_one_line_or_indented():
    text = "law   kfac equals   block_ggn # why\n when examples==1\nand positions!=2\n# next\nlaw trace( ekfac ) equals trace(kfac)  within 1e-8\n"
    shown = format_text(text)
    assert shown == (
        "law kfac equals block_ggn  # why\n  when examples == 1\n  and positions != 2\n"
        "# next\nlaw trace(ekfac) equals trace(kfac) within 1e-8\n"
    )
    assert format_text(shown) == shown
    assert parse(Source("x", text))[0] == parse(Source("x", shown))[0]
    assert loads(text).laws[0].text == ("kfac equals block_ggn when examples==1 and positions!=2")
