"""Layers of a running model, watched: a hook is called after every product that they compute.

A layer is a module that is called, or a product inside one that calls `functional.linear` itself, as
attention does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import Diagnostic, SpecError
from curvlang.models.execution.process_state import ProcessSetting, without_fast_path
from curvlang.models.layers import Layer


@dataclass(frozen=True, slots=True, eq=False)
class TracedLayer:
    """A layer whose uses are recorded.

    Args:
        modules: Names of the modules that share its parameters.
        kind: How they show `a` and `g`.
        inside: Whether the product is inside a module that calls no submodule for it.
        constant: Whether its input is the same for every example, without them on its first axis.
        folds: How many rows of an example may follow each other on the first axis, besides one;
            None for any number.
        second: Whether the examples are on the second axis, positions before them; None for either.
    """

    modules: tuple[str, ...]
    kind: Layer
    inside: bool = False
    constant: bool = False
    folds: frozenset[int] | None = frozenset()
    second: bool | None = False


Groups = Mapping[str, TracedLayer]
"""The layers to watch, by name."""


class OutsideError(SpecError):
    """Layers that a batch uses in another way than the examples they were tried on.

    Args:
        layers: The reason for each.
    """

    def __init__(self, layers: Mapping[str, str]) -> None:
        self.layers = dict(layers)
        super().__init__(
            [
                Diagnostic(
                    Code.E0792,
                    f"`{layer}` does not read the examples of every batch as one layer: {why}",
                    help=("use a chain that reads gradients alone, or the clause `others = …`",),
                )
                for layer, why in layers.items()
            ]
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Made again from the layers, in another process too."""
        return OutsideError, (self.layers,)


Hook = Callable[[str, nn.Module, Tensor, Tensor], "Tensor | None"]
"""Called with a layer's name, the module, its input and output; may replace the output."""

Odd = dict[str, str]
"""Layers that are called in a way that is not read, with the reason."""


@contextmanager
def watching(
    model: nn.Module, groups: Groups, hook: Hook, odd: Odd | None = None
) -> Iterator[None]:
    """Call `hook` after every call of a module of the groups by this thread, until the block ends.

    Calls that are not read are noted in `odd`.

    Raises:
        OutsideError: For such a call where there is no `odd`.
    """
    inside: dict[int, tuple[str, nn.Module]] = {}
    with ExitStack() as stack:
        for layer, watched in groups.items():
            for name in watched.modules:
                module = model.get_submodule(name)
                if watched.inside:
                    inside[id(getattr(module, watched.kind.weight))] = (layer, module)
                else:
                    call = _call(layer, watched.kind, hook, odd)
                    handle = module.register_forward_hook(call, with_kwargs=True)
                    stack.callback(handle.remove)
        if inside:
            stack.enter_context(_products(inside, hook))
        stack.enter_context(without_fast_path())
        yield


def _call(layer: str, kind: Layer, hook: Hook, odd: Odd | None) -> Callable[..., Tensor | None]:
    own = threading.get_ident()

    def call(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Tensor | None:
        if threading.get_ident() != own:
            return None
        why = kind.refuses_call(args, kwargs)
        given = args[0] if args else kwargs.get("input")
        if why is None and isinstance(given, Tensor) and isinstance(output, Tensor):
            return hook(layer, module, given, output)
        why = why or "it is called with something else than one tensor"
        if odd is None:
            raise OutsideError({layer: why})
        odd.setdefault(layer, why)
        return None

    return call


@contextmanager
def _products(weights: Mapping[int, tuple[str, nn.Module]], hook: Hook) -> Iterator[None]:
    """Call the hook after every product with one of the weights.

    `nn.MultiheadAttention` calls `functional.linear` itself, behind a function that hides its calls
    from torch's own modes: the name is replaced for as long as a thread's model runs.
    """
    watched = _WATCHED.products = [*getattr(_WATCHED, "products", ()), (weights, hook)]
    try:
        with _watched_linear():
            yield
    finally:
        _WATCHED.products = watched[:-1]


_WATCHED = threading.local()
"""`products`: what this thread watches, weights by identity with the hook for each."""


@contextmanager
def _replaced_linear() -> Iterator[None]:
    plain = functional.linear

    def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        output = plain(input, weight, bias)
        for weights, hook in getattr(_WATCHED, "products", ()):
            if id(weight) in weights:
                replaced = hook(*weights[id(weight)], input, output)
                output = output if replaced is None else replaced
        return output

    functional.linear = linear
    try:
        yield
    finally:
        functional.linear = plain


_watched_linear = ProcessSetting(_replaced_linear)
