"""Stacks of retrained models whose losses are kept: what is there is read, what is missing is trained and written."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from curvlang.diagnostics.diagnostic import Interrupted
from curvlang.evaluation.retraining.remote import packed, portable, unpacked
from curvlang.evaluation.retraining.retraining import Retraining
from curvlang.evaluation.retraining.stacks import ModelStack, outcome_of
from curvlang.evaluation.retraining.truth_request import TruthRequest
from curvlang.storage.cache import Cache
from curvlang.workers.executor import Execution, PortableWork

_LOG = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class KeptStacks:
    """Models of all subsets and repetitions, in stacks that are kept.

    Args:
        request: Of which models.
        key: What the losses depend on.
        cache: Where they are kept.
        execution: Who trains, and who is notified.
    """

    request: TruthRequest
    key: str
    cache: Cache
    execution: Execution
    found: dict[ModelStack, Tensor] = field(default_factory=dict)
    _retraining: Retraining | None = None

    @property
    def total(self) -> int:
        """Models in all."""
        return len(self.request.kept) * self.request.protocol.retrains

    @property
    def done(self) -> int:
        """Models whose losses are known."""
        return sum(stack.models for stack in self.found)

    @property
    def outcome(self) -> Tensor:
        """Losses of the queries `[K, R, Q]`."""
        return outcome_of(self.found, len(self.request.kept), self.request.protocol.retrains)

    def read(self, wanted: Iterable[ModelStack]) -> list[ModelStack]:
        """Take what is kept; the stacks that are missing."""
        missing = []
        for stack in wanted:
            losses = stack.read(self._content)
            if losses is None:
                missing.append(stack)
            else:
                self.found[stack] = losses
        _LOG.info("%d stacks of models are kept, %d are missing", len(self.found), len(missing))
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
                    if name in named:
                        self._keep(named[name], content)
                        _LOG.info("retrained: %d of %d models", self.done, self.total)
        except KeyboardInterrupt as error:
            raise Interrupted(
                f"{self.done} of {self.total} models are retrained and kept in `{self.cache.root}`"
            ) from error

    def do(self, unit: str) -> bytes:
        """The losses of a stack that is trained here."""
        stack = ModelStack.named(unit)
        if stack in self.found:
            # Kept here, and missing in another process of the group.
            return packed(self.found[stack])
        if self._retraining is None:
            self._retraining = self.request.retraining()
        return packed(self._retraining.trained(stack, self._notify(stack.models)))

    def portable(self) -> PortableWork:
        """As `Work.portable`."""
        return portable(self.request, self.key)

    def _content(self, name: str) -> Tensor | None:
        value = self.cache.get(self.key, name)
        return None if value is None else torch.from_numpy(np.ascontiguousarray(value))

    def _keep(self, stack: ModelStack, content: bytes) -> None:
        losses = unpacked(content)
        self.cache.put(self.key, stack.name, losses)
        self.found[stack] = torch.from_numpy(losses)
        if self.execution.progress is not None:
            self.execution.progress("retraining", self.done, self.total)

    def _notify(self, models: int) -> Callable[[int, int], None] | None:
        progress, done, total = self.execution.progress, self.done, self.total
        if progress is None:
            return None
        return lambda at, of: progress("retraining", done + at * models // of, total)
