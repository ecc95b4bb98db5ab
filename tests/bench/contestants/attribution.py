"""EK-FAC of the empirical Fisher and its pairwise scores: ours, kronfluence, curvlinops, by hand."""

from __future__ import annotations

import logging
import tempfile
import warnings
from copy import deepcopy

import torch
from torch import Tensor

import curvlang as cv
from curvlang.attribution.streams.reduced import ReducedPrecision
from curvlang.costs.rates import Watch
from tests.bench.contest import Results, Sizes, Turn
from tests.bench.contestants import hand
from tests.bench.contestants.inputs import DAMPING, direction, summed_loss, task


def ours(sizes: Sizes) -> Turn:
    return _ours(sizes, None)


def bfloat16(sizes: Sizes) -> Turn:
    """Ours with the model and its products in bfloat16."""
    return _ours(sizes, "bfloat16")


def _ours(sizes: Sizes, precision: str | None) -> Turn:
    made = task(sizes)
    if precision is not None:
        made = made.to(precision=precision)

    def turn(watch: Watch) -> Results:
        # The peers have no progress to show.
        how = {"memory": sizes.get("memory"), "progress": False}
        op = cv.fit("ekfac_empirical", made, **how)
        watch("fit")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ReducedPrecision)
            scores = cv.influence(op, made, damping=DAMPING, **how)
        watch("scores")
        assert isinstance(scores, Tensor)
        return {"scores": scores.float(), "product": op @ direction(made)}

    return turn


def by_hand(sizes: Sizes) -> Turn:
    made = task(sizes)

    def turn(watch: Watch) -> Results:
        fitted = hand.fit(made.model, *made.train)
        watch("fit")
        scores = hand.scores(fitted, made.model, made.train, made.query, DAMPING)
        watch("scores")
        return {"scores": scores}

    return turn


def kronfluence(sizes: Sizes) -> Turn:
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments, ScoreArguments
    from kronfluence.task import Task
    from torch.utils.data import TensorDataset

    class Summed(Task):
        def compute_train_loss(self, batch, model, sample=False):
            return summed_loss(model, *batch)

        def compute_measurement(self, batch, model):
            return summed_loss(model, *batch)

    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    made = task(sizes)
    rules = Summed()
    model = prepare_model(deepcopy(made.model), rules)
    train, query = TensorDataset(*made.train), TensorDataset(*made.query)

    def turn(watch: Watch) -> Results:
        with tempfile.TemporaryDirectory() as folder:
            analyzer = Analyzer(
                "bench", model, rules, cpu=True, output_dir=folder, disable_tqdm=True
            )
            analyzer.fit_all_factors(
                "f", train, per_device_batch_size=64,
                factor_args=FactorArguments(strategy="ekfac", use_empirical_fisher=True),
            )  # fmt: skip
            watch("fit")
            analyzer.compute_pairwise_scores(
                "s", "f", query, train, per_device_query_batch_size=32,
                per_device_train_batch_size=64, score_args=ScoreArguments(damping_factor=DAMPING),
            )  # fmt: skip
            scores = analyzer.load_pairwise_scores("s")["all_modules"]
            watch("scores")
            return {"scores": scores.clone()}

    return turn


def curvlinops(sizes: Sizes) -> Turn:
    """The fit alone: it has no scorer."""
    from curvlinops import EKFACLinearOperator
    from curvlinops.kfac import FisherType, KFACType

    made = task(sizes)
    parameters = [p for p in made.model.parameters() if p.requires_grad]
    X, y = made.train
    batches = list(zip(X.split(512), y.split(512), strict=True))
    loss = torch.nn.CrossEntropyLoss(reduction="mean")

    def turn(watch: Watch) -> Results:
        op = EKFACLinearOperator(
            made.model, loss, parameters, batches, fisher_type=FisherType.EMPIRICAL,
            kfac_approx=KFACType.EXPAND, separate_weight_and_bias=False, check_deterministic=False,
        )  # fmt: skip
        product = op @ direction(made).to(made.dtype)
        watch("fit")
        return {"product": product.detach()}

    return turn
