"""Scores of bergson and dattri as ours: by the layout of their files, and by what they themselves write."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from dattri.algorithm.influence_function import IFAttributorExplicit
from dattri.task import AttributionTask
from safetensors.torch import save_file
from torch.utils.data import DataLoader, TensorDataset

import curvlang as cv
from tests.small import network, task

TRAIN, QUERIES = 5, 3


def matrix(rows=TRAIN):
    return torch.randn(rows, QUERIES, generator=torch.Generator().manual_seed(0))


def written(folder, scores, *, kind="float32", offsets=None, config="", left=()):
    """A folder as bergson 2.5 lays it out: pairs of a score and a flag, each on a power of two."""
    size = 4 if kind == "bfloat16" else 8
    names = [f"{what}_{k}" for k in range(QUERIES) for what in ("score", "written")]
    item = 2 if kind == "bfloat16" else 4
    layout = {
        "names": names,
        "formats": [kind, "bool"] * QUERIES,
        "offsets": [x for k in range(QUERIES) for x in (k * size, k * size + item)],
        "itemsize": -(-QUERIES * size // 8) * 8,
    }
    held = np.zeros(
        len(scores), {**layout, "formats": ["<u2" if item == 2 else "<f4", "bool"] * QUERIES}
    )
    for k in range(QUERIES):
        column = scores[:, k]
        held[f"score_{k}"] = (
            column.bfloat16().view(torch.int16).numpy().view("<u2") if item == 2 else column.numpy()
        )
        held[f"written_{k}"] = [row not in left for row in range(len(scores))]
    folder.mkdir(exist_ok=True)
    held.tofile(folder / "scores.bin")
    items = len(scores) if offsets is None else len(offsets) - 1
    info = {
        "attribute_tokens": offsets is not None,
        "num_items": items,
        "num_rows": len(scores),
        "num_scores": QUERIES,
        "dtype": layout,
    }
    (folder / "info.json").write_text(json.dumps(info))
    if offsets is not None:
        np.save(folder / "offsets.npy", np.array(offsets))
    if config:
        (folder / "config.yaml").write_text(config)
    return folder


CONFIG = """steps:
- score:
    index_cfg:
      run_path: x
      higher_is_better: {other}
    score_cfg:
      query_path: ''
      candidates:
        scores: ''
        higher_is_better: {other}
      modules: []
      higher_is_better: {own}
metadata:
  bergson_version: 2.5.1
"""


def test_rows_of_examples_are_transposed(tmp_path):
    found = cv.read_scores(written(tmp_path / "s", matrix()))
    assert torch.equal(found, matrix().T)
    assert torch.equal(cv.read_scores(str(tmp_path / "s"), "bergson"), matrix().T)


@pytest.mark.parametrize(("own", "other", "sign"), [("true", "false", 1), ("false", "true", -1)])
def test_the_sign_is_that_of_what_helps(own, other, sign, tmp_path):
    folder = written(tmp_path / "s", matrix(), config=CONFIG.format(own=own, other=other))
    assert torch.equal(cv.read_scores(folder), sign * matrix().T)


def test_half_precision(tmp_path):
    found = cv.read_scores(written(tmp_path / "s", matrix(), kind="bfloat16"))
    assert found.dtype == torch.float32
    assert torch.equal(found, matrix().bfloat16().float().T)


def test_rows_of_tokens(tmp_path):
    found = cv.read_scores(written(tmp_path / "s", matrix(6), offsets=[0, 2, 2, 6]))
    assert isinstance(found, cv.TokenScores)
    assert len(found) == 3
    assert torch.equal(found.row(2), matrix(6)[2:].T)
    assert torch.allclose(found.totals().sum(1), matrix(6).sum(0))


def test_what_bergson_itself_writes(tmp_path):
    writer = pytest.importorskip(
        "bergson.score.score_writer", reason="bergson is not installed", exc_type=ImportError
    )
    for kind in (torch.float32, torch.bfloat16, torch.float16):
        scores = matrix().to(kind)
        writer.save_sequence_scores(tmp_path / str(kind), scores.float().numpy(), dtype=kind)
        assert torch.equal(cv.read_scores(tmp_path / str(kind)).float(), scores.float().T)
    offsets = np.array([0, 2, 6])
    writer.save_token_scores(tmp_path / "tokens", matrix(6).numpy(), offsets)
    assert torch.equal(cv.read_scores(tmp_path / "tokens").row(1), matrix(6)[2:].T)


def test_scores_of_dattri_are_ours_transposed(tmp_path):
    t = task(network([3, 4, 3]), "cross_entropy", n=7)

    def loss(parameters, data):
        x, y = data
        f = torch.func.functional_call(t.model, parameters, (x.reshape(-1, 3),))
        return torch.nn.functional.cross_entropy(f, y.reshape(-1))

    attributor = IFAttributorExplicit(
        task=AttributionTask(loss_func=loss, model=t.model, checkpoints=t.model.state_dict()),
        regularization=2.0,
    )
    train, query = (DataLoader(TensorDataset(*pair), batch_size=7) for pair in (t.train, t.query))
    attributor.cache(train)
    theirs = attributor.attribute(train, query).detach()
    torch.save(theirs, tmp_path / "s.pt")
    np.save(tmp_path / "s.npy", theirs.numpy())
    ours = cv.influence(cv.fit("hessian", t), t, damping=2.0)
    for name in ("s.pt", "s.npy"):
        found = cv.read_scores(tmp_path / name, "dattri")
        assert found.shape == (t.Q, t.N)
        assert torch.allclose(found.double(), ours, rtol=1e-4, atol=1e-5)  # theirs is float32
    lds = cv.lds(found.double(), torch.rand(9, t.N) < 0.5, torch.randn(9, t.Q))
    assert lds.per_query.shape == (t.Q,)


class Code:
    def __reduce__(self):
        return print, ("run",)


def test_what_cannot_be_read_is_refused(tmp_path, capsys):
    torch.save(matrix(), tmp_path / "bare.pt")
    torch.save({"s": matrix()}, tmp_path / "dict.pt")
    torch.save([Code()], tmp_path / "code.pt")
    np.save(tmp_path / "objects.npy", np.array([Code()], dtype=object))
    np.save(tmp_path / "nan.npy", np.full((2, 2), np.nan))
    (tmp_path / "empty").mkdir()
    half = written(tmp_path / "half", matrix(), left=(3,))
    short = written(tmp_path / "short", matrix())
    (short / "scores.bin").write_bytes(b"x" * 8)
    odd = written(tmp_path / "odd", matrix())
    (odd / "info.json").write_text("[]")
    some = written(tmp_path / "some", matrix())
    np.save(some / "candidates.npy", np.arange(TRAIN))
    tokens = written(tmp_path / "tokens", matrix(), offsets=[0, 2, 4])
    per_token = tmp_path / "pairwise_scores.safetensors"
    save_file({"all_modules": torch.randn(2, 3, 4)}, per_token)
    for path, tool, words in (
        (tmp_path / "nowhere", None, "check the path"),
        (tmp_path / "bare.pt", None, '"dattri"'),
        (tmp_path / "dict.pt", "dattri", "attribute"),
        (tmp_path / "code.pt", "dattri", "no code"),
        (tmp_path / "objects.npy", "dattri", "no code"),
        (tmp_path / "nan.npy", "dattri", "finite"),
        (tmp_path / "empty", None, "scores.bin"),
        (tmp_path / "empty", "kronfluence", "check the path"),
        (tmp_path / "empty", "bergson", "bergson score"),
        (half, None, "3 of 15"),
        (short, None, "size"),
        (odd, None, "bergson score"),
        (some, None, "candidates"),
        (tokens, None, "offsets.npy"),
        (per_token, None, "compute_per_token_scores"),
    ):
        with pytest.raises(cv.SpecError, match="E0926") as caught:
            cv.read_scores(path, tool)
        assert words in str(caught.value)
    assert capsys.readouterr().out == ""
    for given in ((3, None), (tmp_path, "captum")):
        with pytest.raises(cv.SpecError, match="E0563"):
            cv.read_scores(*given)
