"""One small figure, as every example draws it: text stays text, so that the file is small and can be searched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure


@contextmanager
def picture(path: Path, *, size: tuple[float, float] = (4.6, 2.9)) -> Iterator[Axes]:
    """Axes to draw on; the figure is written when the block ends."""
    with matplotlib.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": "curvlang", "font.size": 9}
    ):
        figure = Figure(size, layout="constrained")
        axes = figure.subplots()
        axes.spines[["top", "right"]].set_visible(False)
        yield axes
        write: Callable[..., None] = FigureCanvasSVG(figure).print_svg  # it has no types
        write(path, metadata={"Date": None})
