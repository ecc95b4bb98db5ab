"""What curvlang runs on here: versions, threads, device, memory, cache, extras, and how to get what is missing."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module, metadata
from pathlib import Path

from packaging.requirements import Requirement

from curvlang.diagnostics.diagnostic import MachineError
from curvlang.diagnostics.free_memory import free_memory, gibibytes
from curvlang.diagnostics.notebook import Display
from curvlang.models.language_models.libraries import OTHER_TORCHVISION
from curvlang.storage.cache import Cache
from curvlang.version import VERSION


class State(StrEnum):
    """What a finding means for a person who wants to work."""

    GOOD = "good"
    ABSENT = "absent"
    """Not there, and only needed for something that was not asked for yet."""
    WRONG = "wrong"
    """Some command fails because of it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Args:
        heading: What it belongs to: `Machine`, `Needed`, or an extra as pip writes it.
        subject: What was looked at: `torch`, `cache`.
        value: What was found, in words.
        state: Whether that is good.
        repair: What to do about it; empty where there is nothing to do.
    """

    heading: str
    subject: str
    value: str
    state: State = State.GOOD
    repair: str = ""


@dataclass(frozen=True, slots=True, repr=False)
class Installation(Display):
    """Everything that was looked at; printable.

    Args:
        findings: In the order in which they are shown.
    """

    findings: tuple[Finding, ...]

    @property
    def works(self) -> bool:
        """Whether nothing was found that makes a command fail."""
        return all(x.state is not State.WRONG for x in self.findings)

    def _summary(self) -> str:
        count = {state: sum(x.state is state for x in self.findings) for state in State}
        wrong = f"{count[State.WRONG]} things to repair" if count[State.WRONG] else "works"
        return f"of curvlang {VERSION}: {wrong}, {count[State.ABSENT]} optional packages absent"

    def __str__(self) -> str:
        width = max(len(x.subject) for x in self.findings)
        lines: list[str] = []
        heading = ""
        for found in self.findings:
            if found.heading != heading:
                heading = found.heading
                lines += [*([""] if lines else []), heading]
            mark = {State.GOOD: " ", State.ABSENT: "-", State.WRONG: "!"}[found.state]
            lines.append(f"{mark} {found.subject.ljust(width)}  {found.value}")
            if found.repair:
                lines.append(f"  {'':{width}}  {found.repair}")
        return "\n".join(lines)


def installation() -> Installation:
    """Look at what curvlang runs on: nothing is computed, and nothing is changed.

    Returns:
        Versions, threads, linear algebra, devices, memory, the cache, every package that curvlang needs and
        those of its extras, each with the command that repairs or installs it.
    """
    return Installation((*_machine(), *_packages()))


def _machine() -> Iterator[Finding]:
    yield Finding("Machine", "curvlang", VERSION)
    python = f"{platform.python_version()}, {platform.system()} {platform.machine()}"
    yield Finding("Machine", "Python", f"{python}, {sys.executable}")
    yield from _torch()
    yield Finding("Machine", "memory", f"{gibibytes(free_memory())} free")
    yield _cache()


def _torch() -> Iterator[Finding]:
    """What torch computes with; what keeps it from being imported, where that fails."""
    try:
        import torch
    except Exception as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        repair = 'make `python -c "import torch"` run: the error is its own'
        yield Finding("Machine", "torch", f"does not run: {said[0]}", State.WRONG, repair)
        return
    threads, processors = torch.get_num_threads(), os.cpu_count()
    limit = os.environ.get("OMP_NUM_THREADS")
    why = f" (OMP_NUM_THREADS={limit})" if limit else ""
    yield Finding("Machine", "threads", f"{threads}{why} of {processors} processors")
    algebra = "MKL" if torch.backends.mkl.is_available() else "not MKL"
    capability = torch.backends.cpu.get_cpu_capability()
    yield Finding("Machine", "linear algebra", f"{algebra}, {capability}")
    count = torch.cuda.device_count()
    if count == 0:
        built = torch.version.cuda
        value = (
            "the processor: this torch is built without CUDA"
            if built is None
            else "the processor: no CUDA device is seen"
        )
        yield Finding("Machine", "device", value)
    for number in range(count):
        found = torch.cuda.get_device_properties(number)
        yield Finding("Machine", f"cuda:{number}", f"{found.name}, {gibibytes(found.total_memory)}")


def _cache() -> Finding:
    cache = Cache()
    files, held = cache.size()
    value = f"{cache.root}: {files} files, {gibibytes(held)}"
    try:
        cache.probe()
    except MachineError as error:
        problem = error.diagnostics[0]
        said = f"{value}; {problem.headline}"
        return Finding("Machine", "cache", said, State.WRONG, "; ".join(problem.help))
    return Finding("Machine", "cache", value)


def _packages() -> Iterator[Finding]:
    """Packages by the requirements that curvlang itself was installed with."""
    wanted = [Requirement(text) for text in metadata.requires("curvlang") or ()]
    wanted = [x for x in wanted if x.name != "curvlang"]  # an extra that takes others together
    extras = metadata.metadata("curvlang").get_all("Provides-Extra") or []
    needed = [x for x in wanted if x.marker is None or x.marker.evaluate({"extra": ""})]
    yield from _of("Needed", needed, "pip install -U curvlang")
    for extra in (x for x in extras if x not in DEVELOPMENT or _is_checkout()):
        own = [x for x in wanted if x not in needed and _is_of(x, extra)]
        yield from _of(f"curvlang[{extra}]", own, f'pip install "curvlang[{extra}]"')


DEVELOPMENT = ("dev", "docs")
"""Extras for those who change curvlang: nothing is missing where it was installed from a wheel."""


def _is_checkout() -> bool:
    return (Path(__file__).parents[1] / "pyproject.toml").is_file()


def _is_of(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is not None and requirement.marker.evaluate({"extra": extra})


def _of(heading: str, wanted: Sequence[Requirement], install: str) -> Iterator[Finding]:
    """The packages of a heading; one that is needed and absent is wrong."""
    absence = State.WRONG if heading == "Needed" else State.ABSENT
    for requirement in wanted:
        name, limits = requirement.name, requirement.specifier
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield Finding(heading, name, "not installed", absence, install)
            continue
        if not limits.contains(version, prereleases=True):
            value = f"{version}, where curvlang needs {limits}"
            yield Finding(heading, name, value, State.WRONG, f'pip install "{name}{limits}"')
        elif name == "transformers" and not _torchvision_fits():
            yield Finding(heading, name, f"{version} does not run", State.WRONG, OTHER_TORCHVISION)
        else:
            yield Finding(heading, name, version)


def _torchvision_fits() -> bool:
    """Whether torchvision is absent or can be imported beside torch."""
    try:
        import_module("torchvision")
    except ModuleNotFoundError:
        return True
    except Exception:
        return False
    return True
