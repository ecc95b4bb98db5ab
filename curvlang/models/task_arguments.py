"""The arguments of a task, each of the type that it stands for, before anything is done with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import Any

from torch import Tensor, nn

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal
from curvlang.diagnostics.values import another_type
from curvlang.language.checking.arguments import number
from curvlang.language.registry import OPTIMISERS
from curvlang.models.data.collect import Source
from curvlang.models.data.fields import IGNORED
from curvlang.models.padding.trial import Padding
from curvlang.models.recipe import Recipe

TextOf = Callable[[Mapping[str, Tensor]], str]
"""Shows the fields of one example as text."""
LabelOf = Callable[[Tensor], str]
"""Shows the target of one example as text."""


def check_arguments(given: dict[str, Any]) -> None:
    """Refuse arguments of another type by name.

    Args:
        given: The arguments of `Task`, by name; None where one was left out.

    Raises:
        SpecError: E0563.
    """
    check_model_type(given["model"])
    example = (
        "`recipe=cv.Recipe(lr=0.1, batch=32, epochs=10)`; training of another kind is not replayed"
    )
    _check("recipe", given, Recipe, "a `Recipe`", example)
    _check("name", given, str, "a text", '`name="mine"`')
    _check("labels", given, str, "the name of a field", '`labels="label"`')
    _check("shift_labels", given, bool, "True or False", "`shift_labels=True`")
    _check("mask", given, Tensor, "a tensor", "`mask=torch.tensor(…)`, [N, T] of bool")
    _check("query_mask", given, Tensor, "a tensor", "`query_mask=torch.tensor(…)`, [Q, T] of bool")
    if given["build"] is not None and not _takes_one(given["build"]):
        raise another_type(
            "build", given["build"], "a function of a seed", "`build=lambda seed: make(seed)`"
        )
    if given["text_of"] is not None and not _takes_one(given["text_of"]):
        raise another_type(
            "text_of",
            given["text_of"],
            "a function of an example's fields",
            '`text_of=lambda fields: tokenizer.decode(fields["input_ids"])`',
        )
    if given["label_of"] is not None and not _takes_one(given["label_of"]):
        raise another_type(
            "label_of",
            given["label_of"],
            "a function of an example's target",
            '`label_of=lambda y: ("cat", "dog")[int(y)]`',
        )
    inputs = given["inputs"]
    named = isinstance(inputs, Sequence) and not isinstance(inputs, str)
    if inputs is not None and not (named and all(isinstance(x, str) for x in inputs)):
        raise another_type("inputs", inputs, "a list of names", '`inputs=["input_ids"]`')


def _takes_one(function: object) -> bool:
    """Whether something can be called with one argument, as far as it says."""
    if not callable(function):
        return False
    try:
        signature(function).bind(0)
    except TypeError:
        return False
    except ValueError:
        # Some functions of C do not say what they take.
        return True
    return True


def check_model_type(model: object) -> None:
    """A module, not its class and not a function.

    Raises:
        SpecError: E0563.
    """
    if isinstance(model, type):
        raise another_type("model", model, "a module", f"an instance, `{model.__name__}(…)`")
    if not isinstance(model, nn.Module):
        raise another_type(
            "model",
            model,
            "a module",
            "a `torch.nn.Module` that holds the parameters and calls this in its `forward`",
        )


def _check(name: str, given: dict[str, Any], kind: type, wanted: str, example: str) -> None:
    value = given[name]
    if value is not None and not isinstance(value, kind):
        raise another_type(name, value, wanted, example)


def given_source(source: Source | None, part: str) -> Source:
    """The examples of a part, which a task cannot be without.

    Raises:
        SpecError: E0407.
    """
    if source is None:
        raise refusal(Code.E0407, f"the task has no `{part}` examples", f"pass `{part}=(X, y)`")
    return source


def l2_of(recipe: Recipe | None, given: float | None) -> float:
    """The given value, the recipe's, or 0; they must agree where there are both."""
    if given is None:
        return 0.0 if recipe is None else recipe.l2
    name = "weight_decay"
    found = number(name, given, OPTIMISERS["sgd"].parameters[name])
    if recipe is not None and recipe.l2 != found:
        raise refusal(
            Code.E0412,
            f"`{name} = {found:g}`, but the recipe trains with {recipe.l2:g}",
            "give it once, in the recipe",
        )
    return found


def check_ragged(padding: Padding | None, part: str) -> None:
    """Rows that came in different lengths have the outputs that they have alone.

    Raises:
        SpecError: E0858.
    """
    if padding is not None and padding.read:
        what, repair = (
            "what the model gives",
            "a model that reads an `attention_mask` and leaves padding out",
        )
        if padding.by_loss:
            what, repair = "the loss", f"a loss in which targets {IGNORED} take no part"
        raise refusal(
            Code.E0858,
            f"rows of `{part}` have different lengths, and {what} depends on the padding",
            f"give {repair}, or rows of one length",
            notes=(f"padding behind a row: {padding.kept}",),
        )


def check_no_mask(mask: Tensor | None, query_mask: Tensor | None) -> None:
    """Rows of different lengths have no mask beside them: what counts follows from the rows.

    Raises:
        SpecError: E0416.
    """
    if not (mask is None and query_mask is None):
        raise refusal(
            Code.E0416,
            "rows have different lengths, and a mask is given beside them",
            "leave it out: positions behind a row do not count; give the rows a field "
            "`attention_mask` where further ones do not",
        )
