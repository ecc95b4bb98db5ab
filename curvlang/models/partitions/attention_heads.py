"""Which layers of a model are those of attention, and how its heads cut them.

Queries, keys and values have a head's outputs side by side; the layer that joins the heads has its inputs so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal
from curvlang.language.partition import Partition
from curvlang.models.tracing.layer_block import Cut
from curvlang.models.tracing.survey import CoveredLayer

QUERY = frozenset({"q", "query", "q_proj", "q_lin", "to_q", "wq"})
KEY_VALUE = frozenset(
    {"k", "key", "k_proj", "k_lin", "to_k", "wk", "v", "value", "v_proj", "v_lin", "to_v", "wv"}
)
FUSED = frozenset({"c_attn", "qkv", "qkv_proj", "query_key_value", "Wqkv", "in_proj"})
OUT = frozenset({"out", "out_proj", "o_proj", "out_lin", "to_out", "o", "wo", "dense", "c_proj"})
"""What layers of attention are called, in torch, in `transformers` and here."""


def part_shape(layer: CoveredLayer) -> tuple[int, int]:
    """Outputs and inputs of one of a layer's matrices, without the bias."""
    weight = layer.kind.parts(layer.module)[0].weight
    return int(weight.shape[-2]), int(weight.shape[-1])


def attention_cuts(partition: Partition, layers: Sequence[CoveredLayer]) -> dict[str, Cut]:
    """How the heads cut the layers of attention.

    Raises:
        SpecError: E0427 where the heads do not divide a layer, E0429 where a model has none.
    """
    known = {layer.name: layer for layer in layers}
    found: dict[str, Cut] = {}
    for parent in dict.fromkeys(name.rpartition(".")[0] for name in known):
        own = _own(parent, known)
        if own:
            found |= _cut(partition, own, _out(parent, known))
    if not found:
        raise refusal(
            Code.E0429,
            f"`{partition.written}`: the model has no layer of attention",
            "`unit(size)` cuts the outputs of any layer, `neuron` into single ones",
            'or name the layers that have heads: `of = "*.wq"` cuts the outputs of those',
            notes=("layers of attention are found by their names: `query`, `q_proj`, `c_attn`, …",),
        )
    return found


def _own(parent: str, known: Mapping[str, CoveredLayer]) -> list[CoveredLayer]:
    """Layers of one module that make queries, keys and values; none where it is not an attention."""
    inside = {
        name.rpartition(".")[2]: layer
        for name, layer in known.items()
        if name.rpartition(".")[0] == parent
    }
    fused = [x for word, x in inside.items() if word in FUSED]
    if fused or not inside.keys() & QUERY:
        return fused
    return [x for word, x in inside.items() if word in QUERY | KEY_VALUE]


def _out(parent: str, known: Mapping[str, CoveredLayer]) -> CoveredLayer | None:
    """The layer that joins the heads: beside the others, or in the module after theirs."""
    above = parent.rpartition(".")[0]
    names = [f"{parent}.{word}".lstrip(".") for word in sorted(OUT)]
    names += [f"{above}.output.dense".lstrip(".")] if parent.endswith("self") else []
    return next((known[name] for name in names if name in known), None)


def _cut(
    partition: Partition, own: Sequence[CoveredLayer], out: CoveredLayer | None
) -> dict[str, Cut]:
    """Every head has equally many inputs of the layer that joins them; outputs come in as many."""
    width = _width(own, out)
    size, rest = divmod(width, partition.count)
    if rest or not size:
        raise _undivided(partition, width, own[0].name)
    found = {}
    for layer in own:
        outputs, _ = part_shape(layer)
        if outputs % size:
            raise _undivided(partition, outputs, layer.name)
        found[layer.name] = Cut("outputs", outputs // size)
    if out is not None:
        found[out.name] = Cut("inputs", partition.count)
    return found


def _width(own: Sequence[CoveredLayer], out: CoveredLayer | None) -> int:
    """Numbers of all heads together."""
    if out is not None:
        return part_shape(out)[1]
    outputs, _ = part_shape(own[0])
    return outputs if len(own) > 1 else outputs // 3


def _undivided(partition: Partition, width: int, name: str) -> Exception:
    return refusal(
        Code.E0427,
        f"`{partition.written}` does not divide the {width} features of `{name}`",
        "take the number of heads that the model has",
    )
