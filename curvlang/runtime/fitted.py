"""A fitted curvature: a structured operator that knows its parameters and its spec's inverse."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.notebook import html_table, one_line
from curvlang.diagnostics.refusal import refusal
from curvlang.diagnostics.values import (
    another_type,
    finite_number,
    nonzero_number,
    positive_number,
    whole_number,
)
from curvlang.language import (
    default_inverse,
    inverse_kept,
    inverse_read,
    score_kept,
    score_read,
)
from curvlang.language.chain import InverseUse, ScoreFormula
from curvlang.models.execution.torch_state import settled
from curvlang.models.task import Task
from curvlang.operators import (
    BlockDiagonal,
    ExampleMean,
    Operator,
    Spectral,
    added,
    check_regular,
    check_spectrum,
    load_operator,
    moved,
    save,
    scaled,
)
from curvlang.operators.iterative.iteration import Progress, Report
from curvlang.runtime.inverse import invert, stated_damping
from curvlang.runtime.solver import NOT_KEPT, FittedSolver
from curvlang.runtime.vectors import by_parameter, parameters_of
from curvlang.storage.tensors import unusable


class FittedOperator:
    """A curvature on all covered parameters, in the order of `model.named_parameters()`.

    Args:
        operator: The structure.
        parameters: Names of the parameters that make up the vector, in order.
        rule: The inverse that the spec names; None for the default (`tikhonov`, λ to be given).
        label: The curvature's name.
        solver: The spec's `solve` line; None for closed forms where there are any.
        by_example: The curvature on some training examples alone, for minibatches of a solver.
        declared: The inverses and the scores that its spec declares, as text: they are known by name
            when others are asked for.
        score: The score that the spec evaluates it by; None for plain influence.
        refit: Fits the same at another model, or at several together; None where that is not known.
    """

    def __init__(
        self,
        operator: Operator,
        parameters: tuple[str, ...],
        rule: InverseUse | None = None,
        label: str = "",
        solver: FittedSolver | None = None,
        by_example: ExampleMean | None = None,
        declared: str = "",
        score: ScoreFormula | None = None,
        refit: Callable[[Sequence[Task]], FittedOperator] | None = None,
    ) -> None:
        self.operator = operator
        self.parameters = parameters
        self.rule = rule
        self.label = label
        self.solver = solver
        self.by_example = by_example
        self.declared = declared
        self.score = score
        self.refit = refit

    def replaced(self, **changes: Any) -> FittedOperator:
        """The same curvature with `changes` of its arguments, by name."""
        names = inspect.signature(FittedOperator.__init__).parameters
        given = {name: getattr(self, name) for name in names if name != "self"}
        return FittedOperator(**(given | changes))

    @property
    def shape(self) -> tuple[int, int]:
        """`(P, P)`."""
        return self.operator.shape

    @property
    def structure(self) -> str:
        """The structure's noun."""
        return self.operator.structure

    @cached_property
    def blocks(self) -> Mapping[str, Operator]:
        """Block name to operator; one block called `model` where the curvature has no blocks."""
        if isinstance(self.operator, BlockDiagonal):
            pairs = zip(self.operator.names, self.operator.blocks, strict=True)
            return MappingProxyType(dict(pairs))
        return MappingProxyType({"model": self.operator})

    @settled
    def __matmul__(self, v: Tensor) -> Tensor:
        """`C v` for `v` of shape `[P]` or `[P, k]`."""
        return self.operator @ v

    @property
    def T(self) -> FittedOperator:
        """The transpose, which is the operator itself: curvatures are symmetric."""
        return self

    @settled
    def __add__(self, other: FittedOperator | Operator) -> FittedOperator:
        """C + D, in blocks where both have the same ones.

        The sum has neither's inverse nor solver: give `damping`, or an inverse by name.

        Raises:
            SpecError: E0606 where they are not of the same parameters, precision and device.
        """
        if not isinstance(other, FittedOperator | Operator):
            return NotImplemented
        self._check_fits(other)
        inner = other.operator if isinstance(other, FittedOperator) else other
        label = f"{self.label or 'curvature'} + {getattr(other, 'label', '') or other.structure}"
        return FittedOperator(
            added([self.operator, inner]), self.parameters, None, label, declared=self.declared
        )

    def __radd__(self, other: object) -> FittedOperator:
        """`sum([C, D])` starts with 0."""
        return self if isinstance(other, int) and other == 0 else NotImplemented

    @settled
    def __mul__(self, factor: float) -> FittedOperator:
        """The multiple c · C, without C's inverse and solver.

        Raises:
            SpecError: E0563 for a factor that is not a finite number.
        """
        factor = finite_number(factor, "factor")
        label = f"{factor:g} · {self.label or 'curvature'}"
        return FittedOperator(
            scaled(factor, self.operator), self.parameters, None, label, declared=self.declared
        )

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> FittedOperator:
        """C / c."""
        return self * (1.0 / nonzero_number(divisor, "divisor"))

    def __neg__(self) -> FittedOperator:
        """−C."""
        return self * -1.0

    def __sub__(self, other: FittedOperator | Operator) -> FittedOperator:
        """C − D, as `C + (−D)`."""
        if isinstance(other, FittedOperator):
            return self + -other
        return self + scaled(-1.0, other) if isinstance(other, Operator) else NotImplemented

    def _check_fits(self, other: FittedOperator | Operator) -> None:
        if isinstance(other, FittedOperator) and other.parameters != self.parameters:
            apart = sorted(set(self.parameters) ^ set(other.parameters))
            what = f"only one has `{apart[0]}`" if apart else "their order differs"
            raise refusal(
                Code.E0798,
                f"the curvatures are not on the same parameters: {what}",
                "fit both on one task, with the same clause `others = …`",
            )
        if other.shape != self.shape:
            raise refusal(
                Code.E0798,
                f"operators of size {self.shape[0]} and {other.shape[0]} cannot be added",
                "fit both on one task",
            )
        own = self.operator
        inner = other.operator if isinstance(other, FittedOperator) else other
        if (inner.dtype, inner.device) != (own.dtype, own.device):
            place = f"dtype={own.dtype}, device='{own.device}'"
            raise refusal(
                Code.E0798,
                f"operators in {inner.dtype} on {inner.device} and in {own.dtype} on {own.device} "
                "cannot be added",
                f"move one: `.to({place})`",
            )

    @settled
    def to(
        self,
        where: torch.dtype | torch.device | str | None = None,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> FittedOperator:
        """The same curvature in another precision or on another device.

        A solver on minibatches stays behind, since it runs the model where that is.

        Args:
            where: A precision or a device, as `torch.Tensor.to` takes one.
            dtype: float32 or float64; the operator's where not given.
            device: The operator's where not given.

        Raises:
            SpecError: E0603 for a matrix-free operator, E0758 for another precision, E0708 for a
                device that cannot be used.
        """
        if isinstance(where, torch.dtype):
            dtype = where
        elif where is not None:
            device = where
        solver = self.solver
        if solver is not None and solver.preconditioner is not None:
            solver = replace(solver, preconditioner=moved(solver.preconditioner, dtype, device))
        whole = moved(self.operator, dtype, device)
        refit = self.refit
        again = refit and (lambda tasks: refit(tasks).to(dtype=dtype, device=device))
        return self.replaced(operator=whole, solver=solver, by_example=None, refit=again)

    @settled
    def dense(self) -> Tensor:
        """All entries, `[P, P]`."""
        return self.operator.dense()

    @settled
    def trace(self) -> Tensor:
        """Tr C."""
        return self.operator.trace()

    @settled
    def diagonal(self) -> Tensor:
        """Diagonal entries, `[P]`."""
        return self.operator.diagonal()

    @settled
    def eigenvalues(self) -> Tensor:
        """All eigenvalues, `[P]`, in no particular order."""
        return self.operator.eigenvalues()

    @settled
    def frobenius(self) -> Tensor:
        """‖C‖_F."""
        return self.operator.frobenius()

    @settled
    def logdet(self, damping: float = 0.0) -> Tensor:
        """Log det(C + λI), `damping` = λ."""
        return self.operator.logdet(damping)

    @settled
    def distance(self, other: FittedOperator | Operator) -> Tensor:
        """‖C − D‖_F, D the `other` curvature."""
        return self.operator.distance(
            other.operator if isinstance(other, FittedOperator) else other
        )

    @settled
    def inverse(
        self,
        damping: float | None = None,
        *,
        spectral: Spectral | None = None,
        report: Report | None = None,
        progress: Progress | None = None,
    ) -> FittedOperator:
        """Another operator: (C + λI)⁻¹ for a damping λ, `f(C)` for a spectral function.

        Without either, the inverse that the spec names; without one there, `tikhonov` with its
        default, λ = 0.1 × the mean eigenvalue. A solver that the spec names is used for matrices
        without structure.

        Args:
            damping: λ, added to the matrix exactly.
            spectral: An elementwise function of the eigenvalues.
            report: Receives the record of every solve, where there are any.
            progress: Called after every step of a solve.

        Raises:
            SpecError: E0873 for both a damping and a spectral function.
        """
        if spectral is not None:
            found = self.operator.inverse(damping or 0.0, spectral=spectral)
        else:
            found = invert(
                self.operator,
                self._rule(damping),
                self.solver,
                by_example=self.by_example,
                report=report,
                progress=progress,
            )
        name = self.label or "curvature"
        label = f"{name}⁻¹" if spectral is None else f"f({name})"
        return FittedOperator(found, self.parameters, None, label)

    def _rule(self, damping: float | None) -> InverseUse:
        """The inverse with this damping, or the one that the spec names."""
        if damping is not None:
            return default_inverse(damping)
        return self.rule or default_inverse()

    @settled
    def decomposed(self) -> FittedOperator:
        """The same curvature, eigendecomposed once: inverses, draws and log det cost products alone.

        Raises:
            SpecError: E0603 where it is known by its products alone.
        """
        repair = "invert it as it is, `op.inverse(damping=…)`: each product is solved for"
        check_spectrum(self.operator, "eigendecomposition", repair)
        return self.replaced(operator=self.operator.spectral_form())

    @settled
    def sample(
        self,
        shape: int | Sequence[int] = (),
        *,
        generator: torch.Generator,
        damping: float | None = None,
        examples: float = 1.0,
    ) -> Tensor:
        """Draws from N(0, C⁻¹ / N) of shape `[*shape, P]`, with C⁻¹ as `inverse(damping)` gives it.

        With N training examples and the damping δ / N it is Laplace's posterior around the trained
        parameters under the prior N(0, I / δ): its precision is N · C + δ I.

        Args:
            shape: How many draws, or the axes in which they stand.
            generator: Where the random numbers come from.
            damping: λ, added to the matrix exactly; None for the inverse that the spec names.
            examples: N; N / T under the temperature T.

        Raises:
            SpecError: E0603 where the curvature is known by its products alone, E0601 for C + λI
                that is singular, E0922 where C⁻¹ has negative eigenvalues.
        """
        axes, count = _axes(shape), positive_number(examples, "examples")
        _check_generator(generator)
        repair = "fit a curvature with a structure: Kronecker factors, a diagonal, low rank"
        check_spectrum(self.operator, "root, from which samples are made", repair)
        rule = self._rule(damping)
        if (stated := stated_damping(rule)) is not None:
            for name, block in self.blocks.items():
                for unit in block.units():
                    check_regular(unit, name, stated)
        covariance = invert(self.operator, rule, by_example=self.by_example)
        other = "give a `damping`: (C + λI)⁻¹ has one"
        check_spectrum(covariance, "root, from which samples are made", other)
        drawn = torch.randn(
            covariance.size,
            math.prod(axes),
            generator=generator,
            dtype=self.operator.dtype,
            device=generator.device,
        )
        found = covariance.root_product(drawn.to(self.operator.device)) / math.sqrt(count)
        return found.T.reshape(*axes, covariance.size).contiguous()

    def by_parameter(self, v: Tensor, model: nn.Module) -> dict[str, Tensor]:
        """Vectors `[…, P]` as tensors `[…, *shape]` by parameter, as `torch.func` takes them.

        Args:
            v: In the order of `parameters`: a draw, a product.
            model: Whose parameters have these names; it is read for their shapes.

        Raises:
            SpecError: E0563 for other types, E0923 for a model or vectors that do not fit.
        """
        return by_parameter(v, parameters_of(model, self.parameters, self.shape[0]))

    def memory(self) -> int:
        """Bytes of the tensors held."""
        return self.operator.memory()

    def to_scipy(self) -> Any:
        """A `scipy.sparse.linalg.LinearOperator` with the same action."""
        return self.operator.to_scipy()

    def save(self, path: str | Path) -> None:
        """Write the operator to a safetensors file, or to a folder of them, all or nothing.

        Its inverse, its solver with the preconditioner, the parameters' names and its label are kept
        with it. A solver on minibatches needs the training examples, which a file does not hold.

        Args:
            path: The file; a path that ends in `/` is a folder with one file for each block and a
                manifest.

        Raises:
            SpecError: E0603 for a matrix-free operator, E0605 where the system does not let it be
                written.
            MachineError: E0802 where the disk is full.
        """
        notes: dict[str, Any] = {"parameters": list(self.parameters), "label": self.label}
        others: dict[str, Operator] = {}
        if self.rule is not None:
            notes["inverse"] = inverse_kept(self.rule)
        notes["declared"] = self.declared
        if self.score is not None:
            notes["score"] = score_kept(self.score)
        if self.solver is not None:
            notes["solver"] = self.solver.kept()
            if self.solver.preconditioner is not None:
                others["preconditioner"] = self.solver.preconditioner
        save(self.operator, path, notes, others)

    def __repr__(self) -> str:
        """The operator as mathematics."""
        line = f"{self.label or 'curvature'}: {self.operator.describe()}"
        return f"<{one_line(line)}>"

    def _repr_html_(self) -> str:
        rows = [
            (name, str(block.size), block.describe(), str(block.memory()))
            for name, block in self.blocks.items()
        ]
        title = f"{self.label or 'curvature'}: {self.structure}, P = {self.shape[0]}"
        right = (False, True, False, True)
        return html_table(("block", "size", "structure", "bytes"), rows, title=title, right=right)


def _check_generator(generator: object) -> None:
    if not isinstance(generator, torch.Generator):
        wanted, example = "a `torch.Generator`", "`torch.Generator().manual_seed(0)`"
        raise another_type("generator", generator, wanted, example)


def _axes(shape: object) -> tuple[int, ...]:
    """The shape of draws.

    Raises:
        SpecError: E0563 for something else than lengths.
    """
    given = tuple(shape) if isinstance(shape, Sequence) and not isinstance(shape, str) else (shape,)
    axes = tuple(whole_number(x, "shape", "(100,)") for x in given)
    if any(x < 0 for x in axes):
        raise another_type("shape", shape, "a number of draws", "`shape=(100,)`")
    return axes


def load_fitted(path: str | Path) -> FittedOperator:
    """Read what `FittedOperator.save` wrote, a file or a folder.

    Raises:
        SpecError: E0605 where it is missing or damaged, or was written by something else.
    """
    operator, notes, others = load_operator(path)
    try:
        kept = msgspec.convert(notes, _Notes)
    except msgspec.ValidationError as error:
        raise unusable(
            f"`{path}` does not hold a fitted operator: {error}",
            "save it with `op.save`; other operators are read by "
            "`curvlang.operators.load_operator`",
        ) from error
    return FittedOperator(
        operator,
        kept.parameters,
        None if kept.inverse is None else inverse_read(kept.inverse, str(path)),
        kept.label,
        None
        if kept.solver is None
        else FittedSolver.read(kept.solver, others.get("preconditioner")),
        NOT_KEPT,
        kept.declared,
        None if kept.score is None else score_read(kept.score, str(path)),
    )


class _Notes(msgspec.Struct, forbid_unknown_fields=True):
    """What `FittedOperator.save` keeps beside the structure."""

    parameters: tuple[str, ...]
    label: str
    declared: str
    inverse: dict[str, Any] | None = None
    solver: dict[str, Any] | None = None
    score: dict[str, str] | None = None
