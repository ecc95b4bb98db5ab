"""Tensors that are known by their parts: some products are taken of those, all else forms them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor


class StandIn(ABC):
    """What stands for a tensor in generated code."""

    __slots__ = ()

    @abstractmethod
    def dense(self) -> Tensor:
        """The tensor itself."""

    @classmethod
    def by_parts(cls, function: Callable[..., Any], args: Sequence[Any]) -> Any:
        """The result of a torch function, from parts; `NotImplemented` where it needs the tensor."""
        return NotImplemented

    def __getattr__(self, name: str) -> Any:
        # What the class does not say, the tensor does.
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.dense(), name)

    @classmethod
    def __torch_function__(
        cls,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """By parts where it can be, else on the tensors."""
        found = cls.by_parts(function, args)
        if found is not NotImplemented:
            return found
        plain = [x.dense() if isinstance(x, StandIn) else x for x in args]
        return function(*plain, **(kwargs or {}))
