"""Checkpoints of `save_pretrained`: what a folder says of its model, and the model; no code of it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.models.language_models.heads import (
    HEADS,
    TARGET_TEXT,
    Head,
    TrainedHead,
    class_names,
    head_of,
)
from curvlang.models.language_models.libraries import calling, first_line, library
from curvlang.models.language_models.masks import with_finite_masks

PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_PLAIN = {
    "dtype": torch.float32,
    "attn_implementation": "eager",
    "experts_implementation": "eager",
}
"""How models are made: attention written out can be differentiated twice, and experts in any precision."""
_SAVE = "write it with `model.save_pretrained(DIR)`"


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A model of `transformers` that can be loaded: what could be refused has been checked.

    Args:
        path: A folder of `save_pretrained`, or a name of a hub.
        config: What its `config.json` says.
        head: What it predicts.
        trained: The head that an adapter brings, where it is another one than the checkpoint's own.
    """

    path: str
    config: Mapping[str, Any]
    head: Head
    trained: TrainedHead | None = None

    @property
    def architecture(self) -> str:
        """The class that it was saved from; that which reads it where an adapter brings its head."""
        return self.head.reader if self.trained else str(self.config["architectures"][0])

    @property
    def positions(self) -> int | None:
        """The longest row that the model reads, where its positions are numbered."""
        if "relative_attention_num_buckets" in self.config:
            return None
        for name in ("max_position_embeddings", "n_positions", "max_sequence_length", "n_ctx"):
            found = self.config.get(name)
            if isinstance(found, int):
                return found
        return None

    @property
    def vocabulary(self) -> int | None:
        """Tokens that the model has an embedding of."""
        found = self.config.get("vocab_size")
        return found if isinstance(found, int) else None

    def load(self) -> nn.Module:
        """The model in float32, in `eval()` mode.

        Raises:
            SpecError: E0891 where tensors are missing, misshapen or unreadable.
        """
        transformers = library("transformers", "checkpoints are read")

        def call() -> Any:
            return getattr(transformers, self.head.reader).from_pretrained(
                self.path,
                config=self._settings(transformers),
                output_loading_info=True,
                trust_remote_code=False,
                use_safetensors=True,
                **_PLAIN,
            )

        model, info = self._run(call)
        self._check_loaded(info)
        return with_finite_masks(model.eval())

    def fresh(self, seed: int) -> nn.Module:
        """A model of the same configuration, its parameters drawn from a seed."""
        transformers = library("transformers", "checkpoints are read")

        def call() -> Any:
            config = self._settings(transformers)
            torch.manual_seed(seed)
            return getattr(transformers, self.head.reader).from_config(config, **_PLAIN)

        return with_finite_masks(self._run(call).eval())

    def _settings(self, transformers: Any) -> Any:
        """The configuration of a model that keeps nothing for a next token."""
        config = transformers.AutoConfig.from_pretrained(self.path, trust_remote_code=False)
        classes = None if self.trained is None else self.trained.classes
        config.update({"use_cache": False} | ({} if classes is None else {"num_labels": classes}))
        return config

    def _run(self, call: Callable[[], Any]) -> Any:
        def refused(error: Exception) -> SpecError:
            if _UNLIKE in str(error):
                return _unread(self.path, self.architecture)
            return unreadable(self.path, first_line(error), _SAVE)

        with calling(refused), torch.random.fork_rng(devices=[]):
            return call()

    def _check_loaded(self, info: Mapping[str, Any]) -> None:
        """Nothing of the model is left as it was initialised."""
        for kind, what in (("missing_keys", "has no"), ("mismatched_keys", "has another shape of")):
            names = (str(x[0] if isinstance(x, tuple) else x) for x in info.get(kind) or ())
            odd = sorted(name for name in names if not self._brought(name))
            if odd:
                more = f" and {len(odd) - 1} more" if len(odd) > 1 else ""
                raise unreadable(
                    self.path,
                    f"it {what} `{odd[0]}`{more}, which `{self.architecture}` needs",
                    _SAVE,
                )

    def _brought(self, parameter: str) -> bool:
        """Whether a parameter is of a module that an adapter's folder has."""
        modules = () if self.trained is None else self.trained.modules
        return any(part in modules for part in parameter.split("."))


def checkpoint(path: str, folder: Path, trained: TrainedHead | None = None) -> Checkpoint:
    """A checkpoint as its `config.json` describes it; no tensor is read.

    Args:
        path: A folder, or a name of a hub.
        folder: Where relative paths start.
        trained: The head that an adapter brings with it; None for the checkpoint's own.

    Raises:
        SpecError: E0890 without `transformers`, E0891 for what is not a checkpoint, E0892 for one that
            brings code, E0899 for a model of another kind.
    """
    place = place_of(path, folder)
    if Path(place).is_dir():
        _check_files(Path(place))
    elif place[:1] in ("/", ".", "~") or place.count("/") > 1:
        raise unreadable(place, "there is no such folder", _found_nowhere(place))
    transformers = library("transformers", "checkpoints are read")
    with calling(lambda error: unreadable(place, first_line(error), _found_nowhere(place))):
        config, _ = transformers.PreTrainedConfig.get_config_dict(place)
    check_code(place, config, "config.json")
    if quantised := config.get("quantization_config"):
        how = str(quantised.get("quant_method", "in a way that is not named"))
        raise unreadable(
            place,
            f"its parameters are quantised (`{how}`), and have no gradients",
            "give the model that was quantised",
        )
    names = config.get("architectures") or ["a model that is not named"]
    head = head_of(str(names[0]))
    if trained is not None and trained.head is not head:
        return Checkpoint(
            place, _with_classes(_completed(transformers, place), trained), trained.head, trained
        )
    if head is None:
        raise _unread(place, str(names[0]))
    completed = _completed(transformers, place)
    _check_inputs(transformers, place, str(names[0]), head, completed)
    return Checkpoint(place, completed, head)


_READ = {"input_values": "audio", "input_features": "audio", "pixel_values": "images"}
"""What the main inputs of a class of `transformers` are; texts where they are tokens."""


def _check_inputs(
    transformers: Any, place: str, architecture: str, head: Head, config: Mapping[str, Any]
) -> None:
    """Refuse models whose class is called as others are and that read something else.

    Raises:
        SpecError: E0899.
    """
    with calling(lambda error: unreadable(place, first_line(error), _SAVE)):
        kind = getattr(transformers, architecture, None)
    own = getattr(kind, "main_input_name", head.reads)
    if own != head.reads:
        raise _unread(place, architecture, f"which reads {_READ.get(own, f'`{own}`')}")
    if head is TARGET_TEXT and not config.get("is_encoder_decoder"):
        raise _unread(place, architecture, "which has no encoder of texts")


_UNLIKE = "Unrecognized configuration class"
"""What `transformers` says of a model that its class for a kind does not read: of speech, or of texts and images."""


def _unread(place: str, architecture: str, why: str = "") -> SpecError:
    """E0899: a model of a kind that is not read."""
    return refusal(
        Code.E0899,
        f"`{place}` is a `{architecture}`, {why or 'and models of that kind are not read'}",
        f"give one of {', '.join(map(str, HEADS))}, of texts or images; any other model comes from a function: "
        "`python(…)`",
    )


def _with_classes(config: dict[str, Any], trained: TrainedHead) -> dict[str, Any]:
    """The configuration with as many classes as an adapter's head has."""
    if trained.classes is None or len(class_names(config)) == trained.classes:
        return config
    return {**config, "id2label": {k: f"LABEL_{k}" for k in range(trained.classes)}}


def _completed(transformers: Any, place: str) -> dict[str, Any]:
    """The configuration with what its class says where the file says nothing.

    Raises:
        SpecError: E0891.
    """
    with calling(lambda error: unreadable(place, first_line(error), _SAVE)):
        found = transformers.AutoConfig.from_pretrained(place, trust_remote_code=False)
    described: dict[str, Any] = found.to_dict()
    return described


def place_of(path: str, folder: Path) -> str:
    """A folder or file where there is one, else a name of a hub, or a path that is not there."""
    try:
        return str(folder / path) if (folder / path).exists() else path
    except (OSError, ValueError):
        return path


def check_code(place: str, described: Mapping[str, Any], file: str) -> None:
    """Refuse what names Python code of its own to be run.

    Raises:
        SpecError: E0892.
    """
    if described.get("auto_map"):
        classes = ", ".join(f"`{x}`" for x in sorted(described["auto_map"]))
        raise refusal(
            Code.E0892,
            f"`{place}` needs Python code of its own: its `{file}` names some for {classes}",
            "where you trust that code, load the model in Python, and give it as a function: "
            "`python(…)` with `--allow-python`",
            notes=("no code of a checkpoint is run",),
        )


def _check_files(folder: Path) -> None:
    """A folder of a whole model, in safetensors.

    Raises:
        SpecError: E0891.
    """
    place = str(folder)
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            raise unreadable(
                place,
                "it holds an adapter, and no model",
                f'name both: `pretrained("MODEL", adapter = "{place}")`',
            )
        raise unreadable(place, "it has no `config.json`", _SAVE)
    if any(folder.glob("*.safetensors")):
        return
    pickled = sorted(x.name for pattern in PICKLED for x in folder.glob(pattern))
    if pickled:
        raise unreadable(
            place,
            f"its parameters are in `{pickled[0]}`, a pickle, which can run code",
            "write safetensors: load it where you trust it, then `model.save_pretrained(DIR)`",
        )
    raise unreadable(place, "it has no safetensors files", _SAVE)


def _found_nowhere(place: str) -> str:
    if Path(place).exists():
        return _SAVE
    return "give a folder that `save_pretrained` has written; a name of a hub needs a network"


def unreadable(path: str, why: str, repair: str) -> SpecError:
    """The refusal of a checkpoint that cannot be read: E0891."""
    return refusal(Code.E0891, f"no model in `{path}`: {why}", repair)
