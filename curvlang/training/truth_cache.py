"""Which kept ground truth a run may use: that of the same content, kind of device and release of torch."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch

from curvlang.models.content import ONLY_HERE
from curvlang.storage.cache import Array, Cache, Unkept


class StartsOver(UserWarning):
    """Models are retrained although ground truth of this task is kept, or cannot be kept."""


class TruthCache(Cache):
    """The part of a cache that was trained on one kind of device with one release of torch.

    Numbers of another kind or release differ in their last digits, and a training amplifies that.

    Args:
        cache: The whole of it.
        device: Where models are trained.
    """

    def __init__(self, cache: Cache, device: torch.device) -> None:
        super().__init__(cache.root)
        self.damaged = cache.damaged
        self._whole = cache
        release = torch.__version__.partition("+")[0]
        self.place = f"{device.type}-torch{release}"

    def get(self, key: str, name: str) -> Array | None:
        """As `Cache.get`."""
        return self._whole.get(key, self._named(name))

    def put(self, key: str, name: str, value: Array) -> None:
        """As `Cache.put`."""
        self._whole.put(key, self._named(name), value)

    def adopt(self, key: str) -> None:
        """Take over what an earlier version has kept, which did not say where it was trained."""
        for name in self.names(key):
            if "@" not in name:
                self.rename(key, name, self._named(name))

    def places(self, key: str) -> set[str]:
        """Devices and releases for which a key keeps something; `` for what an earlier version kept."""
        return {name.partition("@")[2] for name in self.names(key)}

    def _named(self, name: str) -> str:
        return f"{name}@{self.place}"


def truth_cache(
    cache: Cache, device: torch.device, key: str, earlier: Callable[[], str], identity: str
) -> Cache:
    """The cache for one ground truth; a warning, once, where what is kept is not used.

    Args:
        cache: Of all ground truth.
        device: Where models are trained.
        key: Of this one.
        earlier: The key that an earlier version had for it.
        identity: What the task's own code is.
    """
    if ONLY_HERE in identity:
        _warn(
            "ground truth is not kept: a loss, a metric or a model holds an object whose content "
            "cannot be read, such as an open file or a lock"
        )
        return Unkept(cache.root)
    found = TruthCache(cache, device)
    places = found.places(key)
    if found.place in places:
        return found
    if "" in places and device.type == "cpu":
        found.adopt(key)
    elif places:
        kept = "; ".join(sorted(place or "an earlier version" for place in places))
        _warn(
            f"models are retrained: the ground truth that is kept is of {kept}, not of {found.place}"
        )
    elif (old := earlier()) != key and found.names(old):
        _warn(
            "models are retrained: an earlier version knew the task's own code (a loss, a metric, a "
            "model) by its name alone, now its content counts as well"
        )
    return found


def _warn(text: str) -> None:
    warnings.warn(text, StartsOver, stacklevel=2)
