"""Leaves of one batch for all programs of a run: inputs, columns, and what every position counts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from curvlang.compiler.derive.program import Fisher, Partition, Program
from curvlang.models.derivatives.layer_columns import layer_columns
from curvlang.models.losses.draws import Draws
from curvlang.models.losses.finite import in_part
from curvlang.models.padding.spans import Batch
from curvlang.models.task import Task
from curvlang.models.tracing.blocks import LayerBlock
from curvlang.models.tracing.half_precision import exact_jacobian, exact_leaves, exact_loss_hessian
from curvlang.models.tracing.leaves import LeafRequest
from curvlang.runtime.positions.alignment import Alignment, varying
from curvlang.runtime.positions.position_weights import position_weights
from curvlang.runtime.prepare import Preparation


@dataclass(slots=True)
class BatchLeaves:
    """Leaves of one batch, each computed once for all programs that read it."""

    task: Task
    prepared: Preparation
    batch: Batch
    draws: Draws
    known: dict[tuple[Partition, Fisher | None, bool], dict[str, dict[str, Tensor]]] = field(
        default_factory=dict
    )

    def leaves_for(self, program: Program) -> dict[str, dict[str, Tensor]]:
        """What a program reads of the batch, by block and leaf."""
        kinds = {leaf.kind for leaf in program.leaves.values() if leaf.per_example}
        if program.partition == Partition.MODEL:
            return {"model": self._whole(program, kinds)}
        by_block = self._layers(program.partition, program.fisher, "e" in kinds)
        self._check_positions(program.partition, by_block)
        names = {name: leaf.kind for name, leaf in program.leaves.items() if leaf.per_example}
        return {
            block: {name: given[kind] for name, kind in names.items()}
            for block, given in by_block.items()
        }

    def _layers(
        self, partition: Partition, fisher: Fisher | None, errors: bool
    ) -> dict[str, dict[str, Tensor]]:
        key = (partition, fisher, errors)
        if key not in self.known:
            wants = {"a"} | ({"g"} if fisher else set()) | ({"e"} if errors else set())
            with in_part(self.task.model, self.batch.X, "train", self.batch.start):
                self.known[key] = exact_leaves(
                    self.task.model,
                    self.task.loss,
                    self.batch.X,
                    self.batch.y,
                    self.prepared.blocks[partition],
                    LeafRequest(wants, fisher or Fisher(), self.draws),
                )
            for block in self.prepared.blocks[partition]:
                self.known[key][block.name] |= self._weights(block)
        return self.known[key]

    def _check_positions(self, partition: Partition, known: dict[str, dict[str, Tensor]]) -> None:
        """Layers have the positions that the plan's code is made for."""
        shorter = self.batch.window is not None
        for block in self.prepared.blocks[partition]:
            if not block.factored:
                continue
            found = known[block.name]["a"].shape[-2]
            if found > block.positions or (found < block.positions and not shorter):
                raise varying(block.layer)

    def _weights(self, block: LayerBlock) -> dict[str, Tensor]:
        """What every position of a layer counts in a mean, where some are padding."""
        if not self.prepared.aligned:
            return {}
        calls = self.prepared.aligned.get(block.layer, (Alignment(block.positions),))
        like = torch.empty((), dtype=self.task.precision, device=self.task.device)
        return position_weights(calls, self.batch, self.task.N, like, block.count)

    def _whole(self, program: Program, kinds: set[str]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        layers = self.prepared.blocks[Partition.LAYER]
        if "j" in kinds:
            given = self._layers(Partition.LAYER, program.fisher, False)
            found["j"] = layer_columns(layers, given)
        if "J" in kinds:
            found["J"] = exact_jacobian(self.task.model, self.batch.X, layers)
        if "L" in kinds:
            found["L"] = exact_loss_hessian(
                self.task.model, self.task.loss, self.batch.X, self.batch.y
            )
        return {
            name: found[leaf.kind] for name, leaf in program.leaves.items() if leaf.kind in found
        }
