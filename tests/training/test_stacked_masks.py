"""Encoders of `transformers` with padding: stacked by masks that `vmap` runs, against a plain loop."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

import curvlang as cv
from curvlang.models.data.rows import Pair
from curvlang.models.execution.packed import PackedBuild, layout_in, wide_masks
from curvlang.training.engines import engine
from curvlang.training.one_by_one import ModulesInTurn, OneByOne
from curvlang.training.retrain import retrain
from curvlang.training.stacked_any import StackedModules
from curvlang.training.training import Training
from tests.training.test_retrain import reference_loop

transformers = pytest.importorskip("transformers")

EXACT = 1e-8  # float64, the same sums in another order
SIZES = {"vocab_size": 20, "num_labels": 3, "attn_implementation": "eager"}


def bert(seed: int) -> nn.Module:
    config = transformers.BertConfig(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12,
        max_position_embeddings=8, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **SIZES,
    )  # fmt: skip
    return _made(transformers.BertForSequenceClassification, config, seed)


def distilbert(seed: int) -> nn.Module:
    config = transformers.DistilBertConfig(
        dim=8, n_layers=2, n_heads=2, hidden_dim=12, max_position_embeddings=8, dropout=0.0,
        attention_dropout=0.0, seq_classif_dropout=0.0, **SIZES,
    )  # fmt: skip
    return _made(transformers.DistilBertForSequenceClassification, config, seed)


def _made(kind: type[nn.Module], config: object, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return kind(config).double().eval()


class Counts(nn.Module):
    """Reads the numbers of its mask, in Python and in its outputs: no other mask will do."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 4)
        self.last = nn.Linear(4, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        kept = self.words(input_ids) * attention_mask.unsqueeze(-1)
        total = (
            kept.sum(1)
            if bool(attention_mask.all())
            else kept.sum(1) / attention_mask.sum(1)[:, None]
        )
        return self.last(total)


def counts(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return Counts().double().eval()


def fields(count: int, seed: int) -> dict[str, Tensor]:
    """Rows of three to six tokens, padded to six."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 20, (count, 6), generator=generator)
    kept = torch.arange(6) < torch.randint(3, 7, (count, 1), generator=generator)
    labels = torch.randint(0, 3, (count,), generator=generator)
    return {"input_ids": ids * kept, "attention_mask": kept.long(), "labels": labels}


def training(build) -> tuple[Training, Pair]:
    task = cv.Task(build(0), "cross_entropy", fields(12, 1), fields(5, 2))
    recipe = cv.Recipe(lr=0.1, batch=4, epochs=2)
    made = PackedBuild(build, layout_in(task.model))
    kept = torch.ones(2, 12, dtype=torch.bool)
    return Training(
        made, "cross_entropy", task.train, task.query, kept, recipe, [1, 2], [3, 4]
    ), task.train


@pytest.mark.parametrize("build", [bert, distilbert])
def test_encoders_are_stacked_and_equal_the_plain_loop(build):
    asked, train = training(build)
    with warnings.catch_warnings():
        warnings.simplefilter("error", OneByOne)
        found = retrain(asked)
    assert type(engine([asked.build(k) for k in (1, 2)], asked)) is StackedModules
    for k in range(2):
        curve, _ = reference_loop(
            asked.build,
            "cross_entropy",
            train,
            torch.ones(12, dtype=torch.bool),
            asked.recipe,
            k + 1,
            k + 3,
        )
        assert float((found.curve[k] - curve).abs().max()) <= EXACT


def test_models_that_need_the_numbers_of_their_mask_are_trained_one_by_one():
    asked, _ = training(counts)
    with pytest.warns(OneByOne, match="data-dependent"):
        found = engine([asked.build(k) for k in (1, 2)], asked)
    assert type(found) is ModulesInTurn


def test_a_wide_mask_is_given_inside_its_block_alone():
    asked, train = training(bert)
    model = asked.build(1)
    seen = []
    model.bert.register_forward_pre_hook(
        lambda _, args, named: seen.append(named["attention_mask"].shape), with_kwargs=True
    )
    plain = model(train[0][:3])
    with wide_masks():
        wide = model(train[0][:3])
    again = model(train[0][:3])
    assert [len(x) for x in seen] == [2, 4, 2]
    assert torch.equal(plain, again)
    assert float((plain - wide).abs().max()) <= EXACT
