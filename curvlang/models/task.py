"""A task: a model, its loss, the examples it was trained on and the queries asked of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from copy import copy
from operator import is_
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

import torch
from torch import Tensor, nn

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal
from curvlang.diagnostics.values import another_type
from curvlang.language.partition import Partition
from curvlang.models.content import own_code
from curvlang.models.data.adapt import adapt
from curvlang.models.data.collect import Source
from curvlang.models.data.derived_rows import cast_pair, selected_pair
from curvlang.models.data.rows import Examples, Pair
from curvlang.models.execution.copies import copied, differentiable, recordable, unwrapped
from curvlang.models.execution.packed import PackedBuild, is_packed, layout_in, packed
from curvlang.models.execution.precision import Precision, PrecisionLike, agreed
from curvlang.models.execution.sharded import whole
from curvlang.models.execution.torch_state import settled
from curvlang.models.fingerprint import RowHashes, digest, hashed, model_parts, parameter_parts
from curvlang.models.language_models.pretrained import TextWords, examples_for, pretrained_build
from curvlang.models.losses.loss import Loss
from curvlang.models.losses.resolve import check_mean, loss_for
from curvlang.models.losses.user_loss import Function
from curvlang.models.origin import Build, MovedBuild, Origin
from curvlang.models.padding.spans import Batch, BatchRows, RowsAt, batch_rows, own_spans
from curvlang.models.padding.trial import Padding, tried
from curvlang.models.recipe import Recipe
from curvlang.models.sources.transfers import moved
from curvlang.models.task_arguments import (
    LabelOf,
    TextOf,
    check_arguments,
    check_no_mask,
    check_ragged,
    given_source,
    l2_of,
)
from curvlang.models.tracing import checks
from curvlang.models.tracing.blocks import Facts, LayerBlock, blocks, facts_of, groups, trainable
from curvlang.models.tracing.half_precision import precision
from curvlang.models.tracing.layer_block import first_trainable
from curvlang.models.tracing.verify import EXAMPLES
from curvlang.models.tracing.watching import OutsideError
from curvlang.models.trajectory import Trajectory, checked_trajectory
from curvlang.operators.movement import usable

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

Result = TypeVar("Result")
PARTS = ("train", "query")


class Task:
    """What a curvature is computed on; checked when made, and not changed afterwards.

    The objective is (1/N) Σ ℓ_n(θ) + λ/2 ‖θ‖² with λ = `weight_decay`.

    Args:
        model: Any module that maps inputs [B, …] to outputs [B, …]; used as it is, in the mode it is in. One
            that reads named fields, or returns an object with `.logits` or a tuple that begins with them,
            stands here as a shallow copy that takes and gives tensors; one under `torch.compile` or
            `DataParallel` as the module inside; one made in inference mode as a copy that has gradients.
        loss: A name in `LOSSES`, a `Loss`, a loss module of torch, or a function of one example's outputs and
            target.
        train: The N training examples: tensors `(X, y)`, a Dataset, a DataLoader that does not shuffle, a dict
            of fields [N, …], or a list of examples; an example is a pair or a dict.
        query: The Q queries, likewise.
        recipe: How the model is trained; retraining needs it.
        weight_decay: λ; None for the recipe's, or 0 without a recipe. `adamw` has none: its decay shrinks the
            parameters beside the gradient, and no objective has it as a gradient.
        name: For tables.
        build: Makes a fresh model from a seed; retraining with fresh initialisation needs it.
        mask: Which positions of the training examples count, [N, T] of bool; padding does not. Where not given:
            those of the field `attention_mask`, or all. Means over `t` are then over the positions that count,
            in the layers whose positions are the mask's; a decoder's are those of the field
            `decoder_attention_mask`. Padding outside the first and the last of them is left out of batches,
            where trying shows that nothing changes by it.
        query_mask: Which positions of the queries count, [Q, T] of bool, likewise.
        labels: Of examples that are dicts, the target's field; `labels` or `label` where not given.
        inputs: Of examples that are dicts, the fields that the model reads; all where not given.
        shift_labels: Of dicts with a label for every position: whether a position predicts the next one's label
            (causal language models) or its own.
        origin: Where the parameters came from; the caller, where not given.
        text_of: Shows the fields of an example as text, where its numbers stand for text.
        label_of: Shows its target as text, likewise.
        words_apart: Whether embeddings, and the layer that predicts their rows, count as parameters outside any
            layer's weight matrix.
        trajectory: Checkpoints, and models from other seeds, that scores may read.

    Raises:
        SpecError: E0403 and E0405 to E0409, E0411 to E0413, E0416, E0557, E0558, E0563,
            E0564, E0582, E0586, E0587, E0857 and E0858, each with its repair.
    """

    __slots__ = (
        "_blocks",
        "_facts",
        "_hashed",
        "_padding",
        "_policy",
        "_training",
        "build",
        "label_of",
        "loss",
        "mask",
        "model",
        "name",
        "origin",
        "query",
        "query_mask",
        "recipe",
        "text_of",
        "train",
        "trajectory",
        "weight_decay",
        "words_apart",
    )

    @settled
    def __init__(
        self,
        model: nn.Module,
        loss: str | Loss | Function | nn.Module = "cross_entropy",
        train: Source | None = None,
        query: Source | None = None,
        *,
        recipe: Recipe | None = None,
        weight_decay: float | None = None,
        name: str = "task",
        build: Build | None = None,
        mask: Tensor | None = None,
        query_mask: Tensor | None = None,
        labels: str | None = None,
        inputs: Sequence[str] | None = None,
        shift_labels: bool | None = None,
        origin: Origin | None = None,
        text_of: TextOf | None = None,
        label_of: LabelOf | None = None,
        words_apart: bool = False,
        trajectory: Trajectory | None = None,
    ) -> None:
        check_arguments(dict(locals()))
        checks.check_values(model)
        found = adapt(
            differentiable(whole(unwrapped(model))),
            given_source(train, "train"),
            given_source(query, "query"),
            labels=labels,
            inputs=inputs,
            shift_labels=shift_labels,
        )
        self.model = found.model
        self.loss = loss_for(loss, found.model, found.train, settled=shift_labels is not None)
        self.train: Pair = recordable(found.train)
        self.query: Pair = recordable(found.query)
        self.recipe = recipe
        self.weight_decay = l2_of(recipe, weight_decay)
        self.name = name
        self.origin = origin or Origin("as given")
        self.text_of = text_of
        self.label_of = label_of
        self.words_apart = words_apart
        self.trajectory = checked_trajectory(trajectory)
        self.build = build
        if found.wrapped and build is not None:
            self.build = PackedBuild(build, found.layout)
        if found.ragged:
            check_no_mask(mask, query_mask)
        self.mask = found.mask if mask is None else mask
        self.query_mask = found.query_mask if query_mask is None else query_mask
        self._facts: Facts | None = None
        self._blocks: dict[Hashable, tuple[LayerBlock, ...]] = {}
        self._padding: dict[str, Padding | None] = {}
        self._hashed: tuple[tuple[int, ...], Hash] | None = None
        self._policy: Precision | None = None
        self._training = RowHashes()
        checks.check_pairs(self.model, self.loss, self.train, self.query)
        checks.check_masks({"train": (self.mask, self.N), "query": (self.query_mask, self.Q)})
        for part in PARTS if found.ragged else ():
            check_ragged(self.padding(part), part)
        check_mean(loss, self.loss, self.model, self.train)

    @classmethod
    def pretrained(
        cls,
        path: str | os.PathLike[str],
        data: Any,
        *,
        adapter: str | os.PathLike[str] | None = None,
        recipe: Recipe | None = None,
        precision: PrecisionLike | None = None,
        **words: Unpack[TextWords],
    ) -> Task:
        """The task of a checkpoint of `transformers` and of data for it; no code of the checkpoint runs.

        Args:
            path: A folder of `save_pretrained` with its tokenizer, or a name of a hub.
            data: Training texts: what a `data dataset(…)` line names, a table of `datasets`, or a list.
            adapter: A folder of `peft`, whose matrices alone are studied.
            recipe: How fresh models are trained; retraining needs it.
            precision: What is computed in, `"bfloat16"`; the checkpoint's own where not given.
            **words: How the texts are read, by the words of a `data dataset(…)` line.

        Raises:
            SpecError: E0866, E0875 to E0878 for a precision, E0890 to E0899, each with its repair.
        """
        precision = None if precision is None else Precision.of(precision)
        build = pretrained_build(str(path), None if adapter is None else str(adapter), Path())
        given = examples_for(build, data, words)
        about = {"recipe": recipe, "build": build, "origin": Origin(build.said), **given.options}
        about |= {"name": Path(path).name, "loss": given.loss or "cross_entropy"}
        found = cls(build.load(), train=given.train, query=given.query, **about)
        return found if precision is None else found.to(precision=precision)

    @property
    def N(self) -> int:
        """Training examples."""
        return int(self.train[0].shape[0])

    @property
    def Q(self) -> int:
        """Queries."""
        return int(self.query[0].shape[0])

    @property
    def P(self) -> int:
        """Trainable parameters."""
        return sum(p.numel() for p in trainable(self.model).values())

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the trainable parameters, in the order of the parameter vector."""
        return tuple(trainable(self.model))

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return first_trainable(self.model).device

    @property
    def dtype(self) -> torch.dtype:
        """The parameters' precision."""
        return first_trainable(self.model).dtype

    @property
    def precision(self) -> torch.dtype:
        """In which inputs and gradients are multiplied: float32 where the parameters have half of it."""
        return precision(self.dtype)

    @property
    def policy(self) -> Precision | None:
        """What it is computed in, where that was said; else everything is in the parameters' precision."""
        return self._policy if self._policy and self._policy.dtype == self.dtype else None

    def exact(self) -> Task:
        """The task itself; a copy in float32 where the parameters are in half precision."""
        return self if self.precision == self.dtype else self.to(dtype=self.precision)

    @property
    def few(self) -> Tensor:
        """Inputs of a few training examples, far from each other, on the model's device: what it is tried with."""
        places = torch.linspace(0, self.N - 1, min(EXAMPLES, self.N)).round().long()
        return self.train[0][places.to(self.train[0].device)].to(self.device)

    @property
    def facts(self) -> Facts:
        """What trying the model on a few examples has shown of its layers; tried once."""
        if self._facts is None:
            self._facts = facts_of(self.model, self.few, alone=True)
        return self._facts

    def blocks(self, by: Partition | str = "layer") -> tuple[LayerBlock, ...]:
        """The blocks of the model, by layer where nothing else is asked for: see `models.blocks`."""
        by = Partition(by) if by in ("layer", "parameter") else by
        # What is trainable, and where it lies, may be changed from outside.
        key = by, self.words_apart, self.device, tuple(trainable(self.model))
        if key not in self._blocks:
            few, apart = self.few, self.words_apart
            self._blocks[key] = blocks(self.model, few, by, facts=self.facts, words_apart=apart)
        return self._blocks[key]

    def retried(self, run: Callable[[], Result]) -> Result:
        """What `run` gives; it runs again where a batch has shown that further layers are outside."""
        while True:
            try:
                return run()
            except OutsideError as error:
                if not set(error.layers) - set(self.facts.outside):
                    raise
                self.learn(error.layers)

    def learn(self, outside: Mapping[str, str]) -> None:
        """Layers that some examples use in another way are outside from now on, with the reason."""
        self._facts = facts_of(self.model, self.few, {**self.facts.outside, **outside}, alone=True)
        self._blocks = {}

    def part(self, part: str) -> Pair:
        """Inputs and targets of a `part`: `train` or `query`."""
        if part not in PARTS:
            raise refusal(Code.E0412, f"a task has no part `{part}`", "use `train` or `query`")
        return self.train if part == "train" else self.query

    def batches(
        self, size: int, part: str = "train", within: range | None = None
    ) -> Iterator[Examples]:
        """Consecutive batches of at most `size` examples of a `part`, or `within` some rows, on the model's device."""
        if size < 1:
            raise refusal(Code.E0412, f"a batch of {size} examples", "batches hold 1 or more")
        X, y = self.part(part)
        rows = range(len(X)) if within is None else within
        for k in range(rows.start, rows.stop, size):
            own = slice(k, min(k + size, rows.stop))
            yield moved(X[own], self.device), moved(y[own], self.device)

    def padding(self, part: str = "train") -> Padding | None:
        """What is known of the padding of a part's rows, tried once; None where there is none."""
        if part not in self._padding:
            mask = self.mask if part == "train" else self.query_mask
            X, y = self.part(part)
            spans = None if mask is None else own_spans(mask, y, self.loss)
            given = (self.model, self.loss, X, y)
            known = None if spans is None else tried(*given, spans, groups(self.blocks()))
            self._padding[part] = known
        return self._padding[part]

    def cuts(
        self,
        rows_at: RowsAt,
        part: str = "train",
        within: range | None = None,
        *,
        whole: bool = False,
    ) -> Iterator[BatchRows]:
        """The rows of `batch_rows`, of all or `within` some; `whole` ones keep their padding. None is read."""
        padding = None if whole else self.padding(part)
        spans = None if padding is None or padding.kept else padding.spans
        rows = range(len(self.part(part)[0])) if within is None else within
        return batch_rows(spans, rows_at, rows)

    def read(self, cut: BatchRows, part: str = "train") -> Batch:
        """The examples of a batch, without their padding where it is cut off."""
        placed = moved(cut.rows, self.device) if isinstance(cut.rows, Tensor) else None
        here = cut.rows if placed is None else placed
        X, y = (x[here if x.device == self.device else cut.rows] for x in self.part(part))
        if cut.window is not None and (padding := self.padding(part)) is not None:
            X, y = padding.cut(self.model, X, y, cut.window)
        X, y = moved(X, self.device), moved(y, self.device)
        return Batch(X, y, cut.rows, cut.window, placed)

    def to(
        self,
        device: torch.device | str | None = None,
        *,
        dtype: torch.dtype | None = None,
        precision: PrecisionLike | None = None,
    ) -> Task:
        """A copy with another precision or on another `device`; integers keep their type.

        `dtype` is of parameters and inputs, `precision` of all that is computed: `"bfloat16"`.

        Raises:
            SpecError: E0610 for a device that cannot be used; E0875 to E0878 for a precision that cannot be had, or that `dtype` disagrees with.
        """
        device = self.device if device is None else usable(device)
        policy = self.policy if precision is None else agreed(precision, dtype, device=device)
        dtype = dtype or (self.dtype if policy is None else policy.dtype)
        if precision is not None and (dtype, device) == (self.dtype, self.device):
            return self._under(policy)
        made = self.replaced(
            model=copied(self.model, dtype, device),
            train=cast_pair(self.train, dtype, device),
            query=cast_pair(self.query, dtype, device),
            mask=None if self.mask is None else self.mask.to(device),
            query_mask=None if self.query_mask is None else self.query_mask.to(device),
            build=None if self.build is None else MovedBuild(self.build, dtype, device),
        )
        if not all(map(is_, made.train, self.train)):
            made._training = self._training.of_copies(self.train)
        return made._under(policy)

    def _under(self, policy: Precision | None) -> Task:
        made = copy(self)
        made._policy = policy
        return made

    def replaced(self, **changes: Any) -> Task:
        """The same task with `changes` of its arguments, by name (`loss=…`); checked like any other."""
        given = {name: getattr(self, name) for name in self.__slots__ if name[0] != "_"}
        if "query" in changes:
            given["query_mask"] = None
        made = Task(**(given | changes))
        made._policy = self._policy
        if made.model is self.model:
            made._facts = self._facts
            for part in PARTS:
                if made.part(part)[0] is self.part(part)[0] and part in self._padding:
                    made._padding[part] = self._padding[part]
        if all(map(is_, made.train, self.train)):
            made._training = self._training
            if all(map(is_, made.query, self.query)):
                made._hashed = self._hashed
        return made

    def with_model(self, model: nn.Module, origin: Origin | None = None) -> Task:
        """The same task about another `model` of the same kind (a trained one); `origin` says where it is from."""
        if is_packed(self.model) and not is_packed(model):
            model = packed(model, layout_in(self.model))
        return self.replaced(model=model, origin=origin or self.origin)

    def examples(self, places: Tensor | slice) -> Task:
        """The same task with the training examples at `places`, in their order, and what counts of them."""
        return self._some("train", places)

    def queries(self, places: Tensor | slice) -> Task:
        """The same task with the queries at `places`, in their order, and what counts of them."""
        return self._some("query", places)

    def _some(self, part: str, places: Tensor | slice) -> Task:
        """With some rows of a part; what the model does with them was tried when the task was made."""
        made, mask = copy(self), "mask" if part == "train" else "query_mask"
        counted = getattr(self, mask)
        setattr(made, part, selected_pair(self.part(part), places))
        setattr(made, mask, None if counted is None else counted[places])
        checks.check_lengths(made.part(part), part)
        own = {k: x.at(places) if x and k == part else x for k, x in self._padding.items()}
        made._blocks, made._hashed, made._padding = {**self._blocks}, None, own
        made._training = RowHashes() if part == "train" else self._training
        return made

    def restricted(self, names: Sequence[str]) -> Task:
        """The same task in which all parameters but those of `names` are constants."""
        model = copied(self.model)
        for name, p in model.named_parameters():
            p.requires_grad_(name in names and p.requires_grad)
        checks.check_model(model)
        made = copy(self)
        made.model, made._facts, made._blocks, made._padding = model, None, {}, {}
        return made

    def data_fingerprint(self, *, by_name: bool = False) -> str:
        """SHA-256 of data, architecture, loss, recipe and weight decay, parameters left out.

        Args:
            by_name: Own code counts by its name alone, as it did in earlier versions.
        """
        return digest(
            *model_parts(self.model),
            *(() if by_name else own_code(self.model)),
            repr(self.loss) if by_name else self.loss.identity,
            repr(self.recipe),
            repr(self.weight_decay),
            *(() if self.mask is None else (self.mask,)),
            after=self._hashed_data(),
        )

    def hashed_training(self, dtype: torch.dtype | None = None) -> Hash:
        """The digest's state after the training examples, or after them in another precision."""
        return self._training.of(self.train, dtype)

    def _hashed_data(self) -> Hash:
        """The digest's state after all examples, likewise."""
        versions = tuple(x._version for x in (*self.train, *self.query) if isinstance(x, Tensor))
        if self._hashed is None or self._hashed[0] != versions:
            self._hashed = versions, hashed(*self.query, after=self.hashed_training())
        return self._hashed[1]

    def fingerprint(self) -> str:
        """SHA-256 of all that decides the task's numbers, parameters and buffers included."""
        return digest(self.data_fingerprint(), *parameter_parts(self.model))

    def __repr__(self) -> str:
        return (
            f"Task({self.name}: {type(self.model).__name__}, {self.loss.name}, "
            f"N={self.N}, Q={self.Q}, P={self.P}, {self.dtype}, {self.device})"
        )


def check_task(task: object) -> None:
    """Refuse something else in the place of a task.

    Raises:
        SpecError: E0563.
    """
    if not isinstance(task, Task):
        example = '`cv.Task(model, "cross_entropy", train=(X, y), query=(X, y))`'
        raise another_type("task", task, "a `Task`", example)
