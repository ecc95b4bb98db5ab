"""Whether a model answers alike when it is asked again, and an example alike in any batch.

A loss per example exists only where the output for an example is a function of the example alone.
What is compared are outputs that such a model gives equally: those of one batch twice, of an example
beside others, in another place, in batches of other sizes. In batches of one shape they are equal to
the last bit as a rule. Where they are not, rounding is told from dependence by asking once more in
float64: rounding falls with the precision, a dependence stays. So neither a half-precision model's
coarse numbers nor outputs of very different sizes hide one.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal
from curvlang.models.data.rows import Rows
from curvlang.models.execution.calls import exhausted, whole_text
from curvlang.models.execution.process_state import kept_streams
from curvlang.models.execution.widened import accumulation_dtype, run_widened
from curvlang.models.tracing.trace import check_output

QUICK = 256
"""Units of rounding that batches of other sizes may differ by without a second look."""
REPEATS = 6
"""Further calls of a model that draws random numbers, some of which change nothing."""
MANY = 7
"""Examples of the largest batch tried."""


def tolerance(dtype: torch.dtype) -> float:
    """Relative difference that rounding of a deep model explains: ten times √ε, at most 1/8."""
    return float(min(10 * torch.finfo(dtype).eps ** 0.5, 0.125))


def spread(count: int, size: int) -> list[int]:
    """`count` places from the first to the last of `size`; some twice where there are fewer."""
    if count == 1:
        return [0]
    return [round(k * (size - 1) / (count - 1)) for k in range(count)]


def check_examples(model: nn.Module, X: Tensor, output: Tensor, pool: Rows | None = None) -> None:
    """The output is the same when asked for again, and for an example in any batch.

    Args:
        model: The model.
        X: Inputs [B, …].
        output: What the model gave for them.
        pool: Inputs that other examples of a batch are taken from; X where not given.

    Raises:
        SpecError: E0403 for an output that changes from call to call, E0408 for one of another
            form in a batch of another size, E0410 for examples that influence each other.
    """
    with torch.no_grad(), kept_streams():
        asked = _Answers(model, output.detach())
        asked.known[id(X)] = (X, output.detach())
        _check_repeats(asked, X)
        _check_neighbours(asked, X, X if pool is None else pool)
        _check_sizes(asked, X, X if pool is None else pool)


def check_alone(model: nn.Module, X: Tensor) -> None:
    """Two examples of a batch, the last one among them, have the outputs that they have alone.

    Args:
        model: The model.
        X: Inputs of a batch that is computed with, [B, …].

    Raises:
        SpecError: E0410.
    """
    B = len(X)
    with torch.no_grad():
        asked = _Answers(model, model(X))
        asked.known[id(X)] = (X, asked.first)
        for n in sorted({B // 3, B - 1}):
            apart = asked.apart(X, [n], X[n : n + 1].clone(), [0])
            _refuse(model, apart, f"alone and in a batch of {B}")


def seem_alone(model: nn.Module, X: Tensor) -> Tensor | None:
    """Whether what `check_alone` compares is equal but for rounding, as a tensor that nothing has read yet.

    None where that cannot be told without `check_alone`.
    """
    B = len(X)
    with torch.no_grad():
        whole = model(X)
        others = {n: _alone(model, X[n : n + 1].clone()) for n in {B // 3, B - 1}}
    shape = (1, *whole.shape[1:])
    if whole.element_size() < 4 or any(x is None or x.shape != shape for x in others.values()):
        return None
    close = [_close(whole[n : n + 1], x, whole) for n, x in others.items() if x is not None]
    return torch.stack(close).all()


def _alone(model: nn.Module, x: Tensor) -> Tensor | None:
    try:
        found = model(x)
    except Exception as error:
        if exhausted(error):
            raise
        return None
    return found if isinstance(found, Tensor) else None


def _close(mine: Tensor, other: Tensor, whole: Tensor) -> Tensor:
    """Whether outputs are equal, or differ by no more than batches of different sizes do by rounding."""
    scale = whole.abs().amax(tuple(range(max(1, whole.dim() - 1))))
    near = (mine - other).abs() <= QUICK * _epsilon(mine.dtype) * scale
    return ((mine == other) | near).all()


@dataclass(slots=True, eq=False)
class _Answers:
    """The model's answers, each asked for once in each precision."""

    model: nn.Module
    first: Tensor
    known: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    wide: dict[int, Tensor | None] = field(default_factory=dict)

    def own(self, X: Tensor) -> Tensor:
        """Outputs in the model's own precision."""
        if id(X) not in self.known:
            try:
                found = self.model(X)
            except Exception as error:
                if exhausted(error):
                    raise
                raise refusal(
                    Code.E0410,
                    f"the model does not run on a batch of {len(X)}, and does on {len(self.first)}",
                    "use a model that treats the examples of a batch independently, however many",
                    notes=(whole_text(error),),
                ) from error
            check_output(found, len(X))
            self.known[id(X)] = (X, found)
        return self.known[id(X)][1]

    def wider(self, X: Tensor) -> Tensor | None:
        """Outputs in float64."""
        if id(X) not in self.wide:
            self.wide[id(X)] = run_widened(self.model, X, accumulation_dtype(X.device))
        return self.wide[id(X)]

    def apart(
        self,
        X: Tensor,
        rows: Sequence[int],
        Y: Tensor,
        places: Sequence[int],
        closely: bool = False,
    ) -> float:
        """How far outputs differ that should be equal, relative; 0 where rounding explains it.

        What is equal in the model's own precision is not looked at `closely` elsewhere.
        """
        mine, other = self.own(X)[list(rows)], self.own(Y)[list(places)]
        if mine.shape != other.shape:
            return float("inf")
        if torch.equal(mine, other) and not closely:
            return 0.0
        epsilon = _epsilon(mine.dtype)
        resized = X.shape != Y.shape and mine.element_size() >= 4
        if resized and bool(_close(mine, other, self.first)):
            return 0.0
        wide, beside = self.wider(X), self.wider(Y)
        if wide is None or beside is None:
            found, limit = _difference(mine, other, epsilon), tolerance(_floating(mine.dtype))
        else:
            found = _difference(wide[list(rows)], beside[list(places)], _epsilon(wide.dtype))
            limit = tolerance(_floating(wide.dtype))
        return 0.0 if found <= limit else found


def _check_repeats(asked: _Answers, X: Tensor) -> None:
    """One batch, asked about twice; more often, and in float64, where random numbers were drawn."""
    for call in range(1 + REPEATS):
        before = _random_state(X.device)
        again = X.clone()
        apart = asked.apart(X, range(len(X)), again, range(len(X)), closely=call > 0)
        if apart:
            raise refusal(
                Code.E0403,
                "the model gives another output when it is called again on the same input",
                "call `model.eval()`, and take random numbers and counters out of `forward`",
                notes=(f"the two outputs differ by {_shown(apart)}",),
            )
        if call == 0 and before == _random_state(X.device):
            return


def _check_neighbours(asked: _Answers, X: Tensor, pool: Rows) -> None:
    """Other examples in the places beside an example: first after it, then before it."""
    B = len(X)
    places = [k % len(pool) for k in spread(2 * B, len(pool) + 1)[1::2]]
    others = pool[torch.tensor(places)].to(X.device)
    for kept in ([0], list(range(1, B))):
        if B == 1:
            return
        changed = others.clone()
        changed[kept] = X[kept]
        _refuse(asked.model, asked.apart(X, kept, changed, kept), "beside other examples")


def _check_sizes(asked: _Answers, X: Tensor, pool: Rows) -> None:
    """Alone, in a pair and among more, in other places."""
    B = len(X)
    alone, pair = X[B - 1 :].clone(), X[[B - 1, 0]]
    _refuse(asked.model, asked.apart(X, [B - 1], alone, [0]), f"alone and in a batch of {B}")
    _refuse(asked.model, asked.apart(X, [B - 1, 0], pair, [0, 1]), f"in batches of 2 and {B}")
    many = pool[torch.tensor(spread(MANY, len(pool)))].to(X.device)
    many[[1, MANY - 2]] = X[[B - 1, 0]]
    _refuse(
        asked.model,
        asked.apart(X, [B - 1, 0], many, [1, MANY - 2]),
        f"in batches of {MANY} and {B}",
    )


def _refuse(model: nn.Module, apart: float, where: str) -> None:
    if apart:
        shown = "have another shape" if apart == float("inf") else f"differ by {_shown(apart)}"
        repair = "use a model that treats the examples of a batch independently"
        notes: tuple[str, ...] = ()
        norms = _batch_statistics(model)
        if norms:
            repair = "give these layers running statistics, or use `LayerNorm` or `GroupNorm`"
            notes = (f"also after `model.eval()`, {norms} takes the statistics of the batch",)
        raise refusal(
            Code.E0410,
            "the model's output for an example depends on the batch that the example is in",
            repair,
            notes=(
                f"its outputs {where} {shown}",
                *notes,
                "the loss of one example is not defined otherwise",
            ),
        )


def _batch_statistics(model: nn.Module) -> str:
    """Batch norms without running statistics."""
    return ", ".join(
        f"`{name}` ({type(module).__name__}, `track_running_stats=False`)"
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is None
    )


def _difference(x: Tensor, y: Tensor, epsilon: float) -> float:
    """The largest difference of an output, relative to that output; equal infinities are equal."""
    x, y = x.double(), y.double()
    odd = ~(torch.isfinite(x) & torch.isfinite(y))
    if bool((odd & (x != y)).any()):
        return float("inf")
    x, y = x.masked_fill(odd, 0), y.masked_fill(odd, 0)
    size = torch.maximum(x.abs(), y.abs()).amax(0, keepdim=True)
    # Below the rounding of the largest output, a small one has no digits of its own.
    size = size + min(1e4 * epsilon, 1.0) * size.amax()
    return float(((x - y).abs() / size.clamp_min(torch.finfo(size.dtype).tiny)).amax())


def _floating(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype.is_floating_point else torch.float32


def _epsilon(dtype: torch.dtype) -> float:
    return float(torch.finfo(_floating(dtype)).eps)


def _shown(apart: float) -> str:
    return f"{apart:.2g} of their size" if apart < 0.01 else f"{apart:.0%}"


def _random_state(device: torch.device) -> tuple[object, ...]:
    """Where the streams of random numbers stand that a model may draw from."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    _, numbers, *rest = np.random.get_state(legacy=True)
    held = (*(state.numpy().tobytes() for state in states), np.asarray(numbers).tobytes())
    return (*held, *rest, random.getstate())
