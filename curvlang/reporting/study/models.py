"""Figures of single models: spectra of curvatures block by block, and attributed queries as images or texts."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from curvlang.evaluation.study.attributed import NEIGHBOURS, Attribution, Image
from curvlang.evaluation.study.spectra import WHOLE, Spectrum, ranks
from curvlang.evaluation.study.study_result import FirstModel, StudyResult
from curvlang.reporting import notation
from curvlang.reporting.figures.panels import log_ticks, method_handles, panels
from curvlang.reporting.figures.style import Drawing, drawn, settings, style
from curvlang.reporting.notation import correlation, setting

MOST_PANELS = 12
MOST_ROWS = 6
LEAST = 1e-8
"""Of the largest eigenvalue: below it, rounding is drawn."""
_CELL = 0.88
"""Inches that an image takes with the line above it."""
_TEXT_CELL = 1.2
"""Inches that a text takes."""


def spectra_by_block(result: StudyResult) -> Drawing:
    """Eigenvalues against their rank: the whole curvature, then every block."""
    name, title = "spectra", "Spectra, whole and block by block"
    caption = (
        "Eigenvalues from the largest down, of one model; those that are negative or below 1e-8 of the "
        "largest are left out. "
        "A block's approximation is judged against the line of its exact block."
    )
    models = [m for m in result.first_models if m.spectra]
    found = [(m, part) for m in models for part in _parts(m, len(models))][:MOST_PANELS]
    if not found:
        reason = "No curvature of the study has a spectrum: all are known by their products."
        return Drawing(name, title, caption, None, reason)

    def draw(axes: Axes, item: tuple[FirstModel, str]) -> None:
        model, part = item
        for k, method in enumerate(result.methods):
            for one in model.spectra:
                if (one.curvature, one.part) == (method, part):
                    _line(axes, one, k, len(result.methods))
        log_ticks(axes)
        log_ticks(axes, along="y")
        axes.set_xlabel("rank")
        axes.set_ylabel("eigenvalue")

    known = {s.curvature for m in models for s in m.spectra}
    pairs = zip(result.methods, method_handles(result.methods), strict=True)
    shown = [handle for method, handle in pairs if method in known]
    titles = [_place(m, part, result) for m, part in found]
    return panels((name, title, caption), found, titles, draw, shown)


def _parts(model: FirstModel, models: int) -> Sequence[str]:
    """All blocks of one model; of several models the whole, the first and the last block."""
    blocks = list(dict.fromkeys(s.part for s in model.spectra if s.part != WHOLE))
    if models > 1 and len(blocks) > 2:
        blocks = [blocks[0], blocks[-1]]
    return [WHOLE, *blocks]


def _line(axes: Axes, found: Spectrum, position: int, count: int) -> None:
    least = LEAST * max(found.values)
    kept = [(r, x) for r, x in zip(ranks(found.size), found.values, strict=True) if x > least]
    if kept:
        x, y = zip(*kept, strict=True)
        axes.plot(x, y, markersize=4, linewidth=1.3, **style(position, count))


def _place(model: FirstModel, part: str, result: StudyResult) -> str:
    named = part if part == WHOLE else f"block {part}"
    return f"{notation.settings(model.values)}\n{named}" if result.axes else named


def attributed_queries(result: StudyResult) -> Drawing:
    """Queries with the largest and the smallest LDS, each with the examples that help and harm it."""
    name, title = "attributed", "Best and worst attributed queries"
    found = [(m, a) for m in result.first_models for a in _rows(m.attributed, result)][:MOST_ROWS]
    if not found:
        reason = "There is no LDS of single queries, or the inputs are not images and have no text."
        return Drawing(name, title, "", None, reason)
    damped = [a for _, a in found if a.damping is not None]
    names = ", ".join(dict.fromkeys(_method(a) for _, a in found))
    caption = (
        f"Scores of {names}, the curvature with the largest LDS at the shared "
        f"{'λ' if damped else 'inverse'}, one model. Left the query with its LDS; then the training "
        "examples that help and that harm it most, each with its score."
    )
    with settings(name):
        across = 1 + 2 * NEIGHBOURS
        cell = _TEXT_CELL if any(item.query.text for _, item in found) else _CELL
        figure = Figure((cell * across, (_CELL + 0.5) * len(found) + 0.3), layout="constrained")
        grid = figure.subplots(len(found), across, squeeze=False)
        for row, (model, item) in zip(grid, found, strict=True):
            _row(list(row), model, item, result)
        return drawn(name, title, caption, figure)


def _rows(found: Sequence[Attribution], result: StudyResult) -> Sequence[Attribution]:
    """All queries of one model; of several models the best and the worst."""
    return found if len(result.first_models) == 1 or len(found) < 2 else (found[0], found[-1])


def _method(found: Attribution) -> str:
    at = "" if found.damping is None else f" (λ = {setting(found.damping)})"
    return f"{found.curvature}{at}"


def _row(row: list[Axes], model: FirstModel, found: Attribution, result: StudyResult) -> None:
    place = f"{notation.settings(model.values)}\n" if result.axes else ""
    _image(row[0], found.query, f"{place}LDS {correlation(found.query.score)}")
    row[0].set_ylabel("query", fontsize=8)
    sides = zip(
        (1, 1 + NEIGHBOURS), ("helps", "harms"), (found.helpful, found.harmful), strict=True
    )
    for start, word, images in sides:
        cells = row[start : start + NEIGHBOURS]
        for k, axes in enumerate(cells):
            if k < len(images):
                _image(axes, images[k], f"{images[k].score:+.2g}".replace("-", "−"))
            else:
                axes.set_axis_off()
        cells[0].set_ylabel(word, fontsize=8)


def _image(axes: Axes, image: Image, title: str) -> None:
    if image.text:
        axes.text(0.5, 0.5, fill(image.text, 16), ha="center", va="center", fontsize=6)
    else:
        axes.imshow(image.array(), cmap="gray_r", interpolation="nearest", vmin=0, vmax=255)
    if image.label or not image.text:
        axes.set_xlabel(image.label or f"{image.target:g}", fontsize=8, labelpad=2)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(visible=True, color="#bbbbbb")
    axes.set_title(title, fontsize=8)
