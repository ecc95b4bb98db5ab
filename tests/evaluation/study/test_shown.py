"""What a study's report shows of single models: spectra, and attributed queries as images."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import torch

import curvlang as cv
from curvlang.evaluation.question import Run
from curvlang.evaluation.study.attributed import attributions
from curvlang.evaluation.study.execution import run_missing
from curvlang.evaluation.study.files import CellFolder
from curvlang.evaluation.study.run import gather, work_of
from curvlang.evaluation.study.spectra import WHOLE, ranks, spectra
from curvlang.language import curvature_named, loads
from curvlang.models.data.images import pictures
from curvlang.reporting.study.group_figures import study_drawings
from curvlang.reporting.study.models import attributed_queries
from curvlang.runtime.combine import fit_all
from curvlang.storage.cache import Cache

SPEC = """
study shown {
  task       digits(hidden = [3], epochs = 2)
  path       ggn > block_ggn > kfac
  protocol   subsets = 12, retrains = 2, bootstrap = 20, queries = 12
}
study many {
  task       diabetes(epochs = 2)
  curvatures hessian, ggn, block_hessian, block_ggn, kfac, ekfac, tkfac, diagonal, identity
  protocol   subsets = 6, retrains = 2, bootstrap = 20, queries = 6
}
study unseen {
  task       diabetes(epochs = 2)
  path       ggn > kfac
  protocol   subsets = 6, retrains = 2, bootstrap = 20, queries = 6
}
"""


def test_ranks_are_spread_and_end_at_both_ends():
    for size in (1, 2, 7, 100, 5000):
        found = ranks(size)
        assert (found[0], found[-1]) == (1, size)
        assert list(found) == sorted(set(found))


def test_spectra_are_those_of_the_dense_matrices():
    task = cv.task("digits(hidden = [3])").to(dtype=torch.float64)
    names = ("hessian", "block_ggn", "kfac")
    stages = fit_all([curvature_named(n) for n in names], task)
    found = {(s.curvature, s.part): s for s in spectra(stages)}
    assert set(found) == {(n, WHOLE) for n in names} | {
        (n, part) for n in names[1:] for part in stages[1].operator.names
    }
    for stage in stages:
        one = found[stage.label, WHOLE]
        exact = np.linalg.eigvalsh(stage.operator.dense().numpy())[::-1]
        assert one.size == len(exact)
        expected = exact[[r - 1 for r in ranks(one.size)]]
        assert np.allclose(one.values, expected, rtol=1e-3, atol=1e-12 * exact[0])
        rounding = np.finfo(np.float64).eps * len(exact) * abs(exact).max()
        assert one.negative == (exact < -rounding).sum()
    assert found["hessian", WHOLE].negative > 0 == found["kfac", WHOLE].negative
    block = stages[1].operator
    for name, own in zip(block.names, block.blocks, strict=True):
        exact = np.linalg.eigvalsh(own.dense().numpy())[::-1]
        one = found["block_ggn", name]
        expected = exact[[r - 1 for r in ranks(len(exact))]]
        assert np.allclose(one.values, expected, rtol=1e-3, atol=1e-12 * exact[0])


def test_best_and_worst_queries_with_their_neighbours():
    task = cv.task("digits(hidden = [3])")
    seen = pictures(_spec("shown"), task)
    assert seen is not None
    scores = torch.randn(task.Q, task.N, generator=torch.Generator().manual_seed(1))
    quality = np.linspace(-1, 1, task.Q, dtype=np.float32)
    quality[-1] = np.nan
    found = attributions("kfac", 0.1, scores, quality, task, seen)
    Q = task.Q
    assert [a.query.index for a in found] == [Q - 2, Q - 3, 1, 0]
    for item in found:
        row = scores[item.query.index]
        assert [n.index for n in item.helpful] == row.topk(4).indices.tolist()
        assert [n.index for n in item.harmful] == (-row).topk(4).indices.tolist()
        assert item.query.target == int(task.query[1][item.query.index])
        pixels = seen[1][item.query.index].numpy()
        assert np.abs(item.query.array() / 255 * pixels.max() - pixels).max() <= pixels.max() / 500


def test_the_report_draws_them_and_says_why_it_cannot(tmp_path):
    machine = Run(cache=Cache(tmp_path / "cache"))
    shown = _drawings("shown", machine, tmp_path)
    assert shown["spectra"].svg
    assert shown["attributed"].svg
    assert "image" in shown["attributed"].svg
    unseen = _drawings("unseen", machine, tmp_path)
    assert unseen["spectra"].svg
    assert unseen["attributed"].svg is None
    assert "not images and have no text" in unseen["attributed"].reason


def test_many_methods_are_listed_by_name(tmp_path):
    machine = Run(cache=Cache(tmp_path / "cache"))
    many = _drawings("many", machine, tmp_path)
    few = _drawings("unseen", machine, tmp_path)
    assert "lds-methods" not in few
    assert many["lds-methods"].svg
    assert "Bands" in few["lds-damping"].caption
    assert "Bands" not in many["lds-damping"].caption


def _drawings(name, machine, folder):
    study = loads(SPEC).studies[name]
    store = CellFolder(folder / name)
    work = work_of(study, machine)
    run_missing(work, store, machine)
    # Read back from the disk, as a second run does.
    result = gather(study, work, CellFolder(folder / name))
    assert result.done == result.cells
    return {d.name: d for d in study_drawings(result)}


def _spec(name):
    return loads(SPEC).studies[name].cells[0].task


def test_examples_that_have_a_text_are_shown_by_it():
    rows = {"input_ids": torch.arange(12).reshape(6, 2) % 5, "labels": torch.arange(6) % 2}

    class Reader(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.head = torch.nn.Embedding(5, 3), torch.nn.Linear(6, 2)

        def forward(self, input_ids):
            return self.head(self.table(input_ids).flatten(1))

    def told(fields):
        return "tokens " + " ".join(map(str, fields["input_ids"].tolist()))

    task = cv.Task(Reader().eval(), "cross_entropy", rows, rows, text_of=told)
    found = attributions("kfac", 0.1, torch.eye(6), np.linspace(0, 1, 6), task, None)
    assert found[0].query.text == "tokens 0 1"
    assert [a.helpful[0].text for a in found] == [a.query.text for a in found]
    assert "tokens 0 1" in drawn(found)
    others = [replace(a, query=replace(a.query, text="x"), helpful=()) for a in found]
    assert "tokens 0 1" not in drawn(others)


def drawn(found):
    """A figure of these, whose text is text."""
    first = SimpleNamespace(values={}, attributed=found)
    return attributed_queries(SimpleNamespace(first_models=[first], axes=())).svg
