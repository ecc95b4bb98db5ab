"""What is changed for the whole process while a model runs is as before when all threads are done."""

from __future__ import annotations

import threading
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from curvlang.models.execution.process_state import ProcessSetting, math_attention
from curvlang.models.execution.substitution import functional_call
from curvlang.models.execution.torch_state import product_state
from curvlang.models.layers import OUT_PROJECTION, layer_of
from curvlang.models.tracing.trace import trace
from curvlang.models.tracing.watching import TracedLayer, watching

WAIT = 20.0
"""Seconds after which a thread that never comes is a failure."""


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.attention(x, x, x)[0].mean(1))


def process_state():
    return (
        functional.linear,
        torch.backends.mha.get_fastpath_enabled(),
        torch.backends.cuda.flash_sdp_enabled(),
        torch.backends.cuda.mem_efficient_sdp_enabled(),
        torch.backends.cuda.math_sdp_enabled(),
        torch.backends.cudnn.enabled,
        list(warnings.filters),
    )


def overlapped(first, second):
    """Enter the first, then the second in another thread, leave the first, then the second."""
    entered, left = threading.Event(), threading.Event()
    failures = []

    def other():
        try:
            with second:
                entered.set()
                assert left.wait(WAIT)
        except BaseException as error:
            failures.append(error)
        finally:
            entered.set()

    with first:
        thread = threading.Thread(target=other)
        thread.start()
        assert entered.wait(WAIT)
    left.set()
    thread.join(WAIT)
    assert not thread.is_alive()
    assert failures == []


def watched(model):
    return watching(model, groups(model), keep)


def groups(model):
    inside = TracedLayer(("attention.out_proj",), OUT_PROJECTION, inside=True)
    return {"out": inside, "head": TracedLayer(("head",), layer_of(model.head))}


def keep(layer, module, given, output):
    return None


CONTEXTS = {
    "traces": lambda: (watched(Attention()), watched(Attention())),
    "attention by parts": lambda: (math_attention(), math_attention()),
    "a trace and products": lambda: (watched(Attention()), product_state(Attention())),
    "products and attention by parts": lambda: (product_state(nn.LSTM(2, 2)), math_attention()),
}


@pytest.mark.parametrize("made", CONTEXTS.values(), ids=CONTEXTS)
def test_overlapping_threads_leave_the_process_as_it_was(made):
    before = process_state()
    overlapped(*made())
    assert process_state() == before


def test_the_comparison_sees_what_is_left_changed():
    """The negative twin: torch's own context leaves its setting behind where two threads overlap."""
    before = process_state()
    try:
        overlapped(sdpa_kernel(SDPBackend.MATH), sdpa_kernel(SDPBackend.MATH))
        assert process_state() != before
    finally:
        torch.backends.cuda.enable_flash_sdp(before[2])
        torch.backends.cuda.enable_mem_efficient_sdp(before[3])
    assert process_state() == before


def test_a_setting_is_changed_once_and_put_back_once():
    made = []

    class Change:
        def __enter__(self):
            made.append("on")

        def __exit__(self, *_):
            made.append("off")

    held = ProcessSetting(Change)
    with held(), held():
        assert made == ["on"]
    assert made == ["on", "off"]
    with pytest.raises(ValueError, match="within"), held():
        raise ValueError("within")
    assert made == ["on", "off", "on", "off"]


def test_traces_that_overlap_record_their_own_calls():
    """Both threads trace one model at the same time; each sees its own batch and nothing else."""
    torch.manual_seed(0)
    model = Attention().double().eval()
    batches = [torch.randn(b, 5, 4).double() for b in (2, 3)]
    alone = [trace(model, x, groups(model)) for x in batches]
    both = threading.Barrier(2)
    model.head.register_forward_pre_hook(lambda *_: (both.wait(WAIT), None)[1])
    found = [None, None]

    def run(k):
        found[k] = trace(model, batches[k], groups(model))

    threads = [threading.Thread(target=run, args=(k,)) for k in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    for mine, wanted in zip(found, alone, strict=True):
        assert torch.equal(mine.output, wanted.output)
        for layer in groups(model):
            (use,), (one,) = mine.uses[layer], wanted.uses[layer]
            assert torch.equal(use.input, one.input)


def test_a_model_keeps_its_parameters_where_threads_replace_them():
    model = nn.Linear(3, 2).double()
    own = dict(model.named_parameters())
    inside = threading.Event()

    def slow(module, given):
        inside.set()
        threading.Event().wait(0.05)

    model.register_forward_pre_hook(slow)
    x = torch.randn(4, 3).double()
    found = {}

    def run(value):
        weights = {"weight": torch.full((2, 3), value).double(), "bias": torch.zeros(2).double()}
        found[value] = functional_call(model, weights, (x,))

    first = threading.Thread(target=run, args=(1.0,))
    first.start()
    assert inside.wait(WAIT)
    run(2.0)
    first.join(WAIT)
    assert dict(model.named_parameters()) == own
    for value, output in found.items():
        assert torch.equal(output, value * x.sum(1, keepdim=True).expand(4, 2))
