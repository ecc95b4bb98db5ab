"""Models along a training and from other seeds: which of them a task states, and files that hold them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.diagnostics.source import NOWHERE
from curvlang.diagnostics.values import another_type
from curvlang.language.chain import Part
from curvlang.models.architectures.weights import with_weights
from curvlang.models.arguments import placed
from curvlang.models.execution.copies import copied

States = Sequence[str | Path | Mapping[str, Tensor]]
"""Files of parameters, or parameters by name."""


@dataclass(frozen=True, slots=True)
class Trajectory:
    """The models that scores may read besides the evaluated one: checkpoints of its training, other seeds.

    At most one of `epochs`, `steps`, `files` and `segments` says which checkpoints there are.

    Args:
        epochs: After every so many epochs.
        steps: After every so many steps.
        files: Parameters of each, the earliest first: a file, or tensors by name.
        rates: The learning rate at each of the files; 1 where not given.
        states: The `state_dict()` of the optimiser at each of the files, of Adam with its running means.
        models: Models from as many seeds, the evaluated one counted.
        segments: Parts of the training with equally many steps, each a checkpoint with several models.
        per_segment: Models of each: those in the middle of as many parts of it.

    Raises:
        SpecError: E0432 where several say which checkpoints there are, or the rates are not those of
            the files.
    """

    epochs: int = 0
    steps: int = 0
    files: States = ()
    rates: tuple[float, ...] = ()
    states: Sequence[Mapping[str, Any]] = ()
    models: int = 1
    segments: int = 0
    per_segment: int = 1

    def __post_init__(self) -> None:
        """Refuse what does not say which models are meant."""
        for name, least in (
            ("epochs", 0),
            ("steps", 0),
            ("models", 1),
            ("segments", 0),
            ("per_segment", 1),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise another_type(name, value, f"a whole number from {least}", f"`{name}=10`")
        if sum(map(bool, (self.epochs, self.steps, self.files, self.segments))) > 1:
            raise _unclear("which checkpoints are meant is said twice")
        if self.rates and len(self.rates) != len(self.files):
            raise _unclear(f"{len(self.rates)} learning rates for {len(self.files)} files")
        if self.states and len(self.states) != len(self.files):
            raise _unclear(
                f"{len(self.states)} states of the optimiser for {len(self.files)} files"
            )

    @property
    def checkpoints(self) -> bool:
        """Whether there are any."""
        return bool(self.epochs or self.steps or self.files or self.segments)

    @property
    def given(self) -> bool:
        """Whether the models are in files, so that nothing is trained for them."""
        return bool(self.files)

    def loaded(self, model: nn.Module) -> list[tuple[nn.Module, float]]:
        """The models of the files, each with its learning rate.

        Args:
            model: Of the same architecture.

        Raises:
            SpecError: E0555 and E0556 for files that cannot be read, or hold another model's parameters.
        """
        rates = self.rates or (1.0,) * len(self.files)
        return [
            (_loaded(model, state), rate) for state, rate in zip(self.files, rates, strict=True)
        ]

    def running_means(self, model: nn.Module) -> list[dict[str, dict[str, Tensor]]]:
        """Adam's running means of gradients and of their squares at each of the files, by parameter.

        Args:
            model: Whose trainable parameters the optimiser had, in their order.

        Raises:
            SpecError: E0432 for states of another optimiser, or of other parameters.
        """
        names = [name for name, p in model.named_parameters() if p.requires_grad]
        return [_running_means(state, names) for state in self.states]


_KEPT = {"moment": "exp_avg", "second": "exp_avg_sq"}
"""The leaf of a score, and what `torch.optim` calls it."""


def _running_means(state: Mapping[str, Any], names: Sequence[str]) -> dict[str, dict[str, Tensor]]:
    held = state.get("state", {})
    numbers = [k for group in state.get("param_groups", ()) for k in group["params"]]
    if len(numbers) != len(names) or any(
        x not in held.get(k, {}) for k in numbers for x in _KEPT.values()
    ):
        raise refusal(
            Code.E0432,
            "a state of the optimiser is not that of Adam on the trainable parameters of this model",
            "give `optimiser.state_dict()` of `torch.optim.Adam` or `AdamW`, after a step",
        )
    return {
        leaf: {name: held[k][kept] for name, k in zip(names, numbers, strict=True)}
        for leaf, kept in _KEPT.items()
    }


def _loaded(model: nn.Module, state: str | Path | Mapping[str, Tensor]) -> nn.Module:
    found = copied(model)
    if isinstance(state, str | Path):
        return with_weights(found, Path(state))
    missing, unexpected = found.load_state_dict(dict(state), strict=False)
    if missing or unexpected:
        name = [*missing, *unexpected][0]
        raise refusal(
            Code.E0432,
            f"a checkpoint is not of this model: `{name}` is in one of them alone",
            "give the `state_dict()` of the same model",
        )
    return found


def _unclear(why: str) -> SpecError:
    return refusal(
        Code.E0432,
        why,
        "give one of `epochs`, `steps` and files, and a learning rate for each file: "
        "`every(epochs = 20)`, `every(steps = 100)`, `files(paths = [a, b], rates = [0.1, 0.1])`",
    )


def checked_trajectory(given: object) -> Trajectory | None:
    """A trajectory, or nothing.

    Raises:
        SpecError: E0563 for something else.
    """
    if given is not None and not isinstance(given, Trajectory):
        example = "`trajectory=cv.Trajectory(epochs=20)`"
        raise another_type("trajectory", given, "a `Trajectory`", example)
    return given


def trajectory_from(checkpoints: Part | None, models: Part | None) -> Trajectory | None:
    """What the lines `checkpoints` and `models` of a task state; None without them.

    Raises:
        SpecError: E0432.
    """
    if checkpoints is None and models is None:
        return None
    count = 1 if models is None else cast(int, models.arguments["count"])
    if checkpoints is None:
        return Trajectory(models=count)
    given: dict[str, Any] = dict(checkpoints.arguments)
    with placed(checkpoints.span):
        if checkpoints.name == "every":
            if not (given["epochs"] or given["steps"]):
                raise _unclear("how often there is a checkpoint is not said")
            return Trajectory(given["epochs"], given["steps"], models=count)
        if checkpoints.name == "segments":
            parts = {"segments": given["count"], "per_segment": given["models"]}
            return Trajectory(models=count, **parts)
        source = checkpoints.span
        folder = Path() if source is NOWHERE else Path(source.source.name).parent
        paths = tuple(folder / str(x) for x in given["paths"])
        return Trajectory(files=paths, rates=tuple(map(float, given["rates"])), models=count)
