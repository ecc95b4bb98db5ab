"""Stacks of retrained models whose losses are kept: what is there is read, what is missing is trained and written."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from curvlang.diagnostics.diagnostic import Interrupted
from curvlang.evaluation.retraining.retraining import Retraining
from curvlang.evaluation.retraining.stacks import ModelStack, outcome_of
from curvlang.storage.cache import Cache
from curvlang.workers.executor import Execution


@dataclass(slots=True, eq=False)
class KeptStacks:
    """Models of all subsets and repetitions, in stacks that are kept.

    Args:
        retraining: Of which models.
        key: What the losses depend on.
        cache: Where they are kept.
        execution: Who trains, and who is notified.
    """

    retraining: Retraining
    key: str
    cache: Cache
    execution: Execution
    found: dict[ModelStack, Tensor] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Models in all."""
        return len(self.retraining.kept) * self.retraining.protocol.retrains

    @property
    def done(self) -> int:
        """Models whose losses are known."""
        return sum(stack.models for stack in self.found)

    @property
    def outcome(self) -> Tensor:
        """Losses of the queries `[K, R, Q]`."""
        protocol = self.retraining.protocol
        return outcome_of(self.found, len(self.retraining.kept), protocol.retrains)

    def read(self, wanted: Iterable[ModelStack]) -> list[ModelStack]:
        """Take what is kept; the stacks that are missing."""
        missing = []
        for stack in wanted:
            losses = stack.read(self._content)
            if losses is None:
                missing.append(stack)
            else:
                self.found[stack] = losses
        return missing

    def train(self, missing: Iterable[ModelStack]) -> None:
        """Train stacks, and keep each as soon as it is done.

        Raises:
            SpecError: E0504 where a model diverges.
            Interrupted: On Ctrl-C, with what is kept.
        """
        named = {stack.name: stack for stack in missing}
        try:
            with closing(self.execution.run(self, list(named))) as results:
                for name, content in results:
                    self._keep(named[name], content)
        except KeyboardInterrupt as error:
            raise Interrupted(
                f"{self.done} of {self.total} models are retrained and kept in `{self.cache.root}`"
            ) from error

    def do(self, unit: str) -> bytes:
        """The losses of a stack that is trained here."""
        stack = ModelStack.named(unit)
        return _packed(self.retraining.trained(stack, self._notify(stack.models)))

    def _content(self, name: str) -> Tensor | None:
        value = self.cache.get(self.key, name)
        return None if value is None else torch.from_numpy(np.ascontiguousarray(value))

    def _keep(self, stack: ModelStack, content: bytes) -> None:
        losses = np.load(io.BytesIO(content), allow_pickle=False)
        self.cache.put(self.key, stack.name, losses)
        self.found[stack] = torch.from_numpy(losses)
        if self.execution.progress is not None:
            self.execution.progress("retraining", self.done, self.total)

    def _notify(self, models: int) -> Callable[[int, int], None] | None:
        progress, done, total = self.execution.progress, self.done, self.total
        if progress is None:
            return None
        return lambda at, of: progress("retraining", done + at * models // of, total)


def _packed(losses: Tensor) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, losses.numpy(), allow_pickle=False)
    return buffer.getvalue()
