"""Scores by token are the scores of every position's own loss, by loops of autograd, without padding."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

import curvlang as cv
from curvlang.models.padding import spans
from tests.models.padding.readers import made, next_tokens, padded, rows, with_labels
from tests.runtime.test_layers import assert_close

N, Q, DAMPING = 9, 3, 0.1


def loops(model, given, loss_at):
    """∇ of every position's loss of every row alone, [tokens, P], and where each row begins."""
    found, offsets = [], [0]
    for row in given:
        y = next_tokens(row)
        for t in range(len(row)):
            part = loss_at(model(row[None])[0], y, t)
            slopes = torch.autograd.grad(part, list(model.parameters()), allow_unused=True)
            pairs = zip(slopes, model.parameters(), strict=True)
            own = [(torch.zeros_like(p) if g is None else g).reshape(-1) for g, p in pairs]
            found.append(torch.cat(own))
        offsets.append(len(found))
    return torch.stack(found), offsets


def summed(f, y, t):
    return torch.nn.functional.cross_entropy(f[t], y[t], ignore_index=-100, reduction="sum")


def averaged(f, y, t):
    return summed(f, y, t) / (y != -100).sum()


def ragged(given):
    own = [row.tolist() for row in given]
    return {"input_ids": own, "labels": own}


def left(given):
    return with_labels(padded(given, left=True, places=True, noise=2))


def right(given):
    return with_labels(padded(given, noise=3))


@pytest.fixture(autouse=True)
def _short_batches(monkeypatch):
    monkeypatch.setattr(spans, "ENOUGH", 4)


@pytest.mark.parametrize("tangents", [True, False])
@pytest.mark.parametrize("form", [ragged, left, right])
@pytest.mark.parametrize(("kind", "loss_at"), [("sum", summed), ("mean", averaged)])
def test_they_are_those_of_loops(form, kind, loss_at, tangents, monkeypatch):
    from curvlang.attribution.streams.by_token import TokenScoring

    if not tangents:
        monkeypatch.setattr(TokenScoring, "by_tangents", False)
    model, given, asked = made(), rows(N, low=2), rows(Q, 1, low=2, high=6)
    task = cv.Task(model, cv.CrossEntropy(kind), form(given), form(asked), shift_labels=True)
    op = cv.fit("ggn", task)
    found = cv.influence(op, task, damping=DAMPING, per_token=True, progress=False)
    gradients, offsets = loops(model, given, loss_at)
    query, starts = loops(model, asked, loss_at)
    whole = torch.stack([query[a:b].sum(0) for a, b in pairwise(starts)])
    matrix = op.dense() + DAMPING * torch.eye(len(op.dense()), dtype=torch.float64)
    assert found.offsets.tolist() == offsets
    assert_close(found.scores, torch.linalg.solve(matrix, whole.T).T @ gradients.T)
    assert_close(found.totals(), cv.influence(op, task, damping=DAMPING, progress=False))
    assert_close(found.row(1), found.scores[:, offsets[1] : offsets[2]])
    assert torch.equal(found.row(-1), found.row(N - 1))
    assert len(found) == N


def lm():
    return cv.Task(
        made(),
        cv.CrossEntropy("sum"),
        ragged(rows(N, low=2)),
        ragged(rows(Q, 1, low=2)),
        shift_labels=True,
    )


def test_they_do_not_depend_on_chunks_and_batches(monkeypatch):
    from curvlang.attribution.streams import by_token, cut

    task = lm()
    op = cv.fit("identity", task)
    once = cv.influence(op, task, damping=DAMPING, per_token=True, progress=False).scores
    monkeypatch.setattr(cut, "PAIRS", 2)
    monkeypatch.setattr(by_token, "HELD", 1)
    again = cv.influence(op, task, damping=DAMPING, per_token=True, progress=False).scores
    assert_close(again, once)


def test_groups_and_metrics_mean_what_they_mean_by_row():
    task = lm()
    op = cv.fit("identity", task)
    for options in ({"groups": [[0, 2], [1]], "reduce": "mean"}, {"metric": "margin"}):
        found = cv.influence(op, task, damping=DAMPING, per_token=True, progress=False, **options)
        plain = cv.influence(op, task, damping=DAMPING, progress=False, **options)
        assert_close(found.totals(), plain)


def test_rows_without_padding_have_all_their_positions():
    ids = torch.stack(rows(5, low=9))
    task = cv.Task(made(), cv.CrossEntropy("sum"), (ids, ids), (ids[:2], ids[:2]))
    op = cv.fit("identity", task)
    found = cv.influence(op, task, damping=DAMPING, per_token=True, progress=False)
    by_position = cv.influence(op, task, damping=DAMPING, per_position=True, progress=False)
    assert found.offsets.tolist() == [0, 9, 18, 27, 36, 45]
    assert_close(found.scores, by_position.flatten(1))


def test_padding_that_carries_a_loss_is_refused():
    X = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mask = torch.arange(5) < torch.tensor([2, 5, 3, 4])[:, None]
    task = cv.Task(
        torch.nn.Linear(3, 2).double(), "mse", (X, X[..., :2]), (X, X[..., :2]), mask=mask
    )
    op = cv.fit("identity", task)
    with pytest.raises(cv.SpecError, match=r"E0864.*carry a part of the loss"):
        cv.influence(op, task, damping=DAMPING, per_token=True, progress=False)


@pytest.mark.parametrize("option", ["per_layer", "per_position"])
def test_other_parts_beside_them_are_refused(option):
    task = lm()
    op = cv.fit("identity", task)
    with pytest.raises(cv.SpecError, match=rf"E0863.*`per_token` and `{option}`"):
        cv.influence(op, task, damping=DAMPING, per_token=True, **{option: True})


def test_outputs_without_positions_have_no_tokens():
    X = torch.randn(6, 3, dtype=torch.float64)
    task = cv.Task(
        torch.nn.Linear(3, 2).double(),
        "cross_entropy",
        (X, torch.zeros(6).long()),
        (X, torch.zeros(6).long()),
    )
    with pytest.raises(cv.SpecError, match="E0592"):
        cv.influence(cv.fit("identity", task), task, damping=DAMPING, per_token=True)
