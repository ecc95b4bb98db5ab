"""Adapters: their matrices alone are studied, and they are of their model or refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import curvlang as cv
from curvlang.models.language_models.pretrained import pretrained_build
from tests.models.language_models.checkpoints import TEXTS, saved, tokenizer


@pytest.fixture
def lora(checkpoint):
    import peft
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    config = peft.LoraConfig(
        r=2, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True, task_type="CAUSAL_LM"
    )
    made = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(checkpoint), config)
    for name, p in made.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.1)
    made.save_pretrained("lora")
    return Path("lora")


def loaded(path, adapter):
    return cv.Task.pretrained(path, list(TEXTS), query=["the cat sat"], adapter=adapter)


def test_only_the_adapter_is_studied_and_the_model_has_it(checkpoint, lora):
    import peft
    from transformers import AutoModelForCausalLM

    task = loaded(checkpoint, lora)
    assert len(task.parameters) == 4
    assert all("lora_" in name for name in task.parameters)
    whole = peft.PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(checkpoint), lora
    ).eval()
    ids = torch.tensor([[5, 6, 7]])
    base = pretrained_build(str(checkpoint), None, Path())
    beside = pretrained_build(str(checkpoint), str(lora), Path())
    fresh, theirs, plain, ours = (
        m(input_ids=ids).logits for m in (beside(0), whole, base.load(), beside.load())
    )
    assert torch.equal(fresh, plain)
    assert not torch.allclose(theirs, plain)
    assert torch.allclose(ours, theirs)


def test_scores_are_those_of_the_definition(checkpoint, lora):
    task = loaded(checkpoint, lora).to(dtype=torch.float64)
    op = cv.fit("ekfac_lm", task)
    assert {x.describe().split()[0] for x in op.blocks.values()} == {"EigenBasis"}
    scores = cv.influence(op, task, damping=0.1)
    model = pretrained_build(str(checkpoint), str(lora), Path()).load().double()
    own = [p for p in model.parameters() if p.requires_grad]

    def gradient(text):
        from transformers import AutoTokenizer

        ids = torch.tensor([AutoTokenizer.from_pretrained(checkpoint)(text)["input_ids"]])
        loss = model(input_ids=ids, labels=ids).loss * (ids.shape[1] - 1)
        return torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, own)])

    train, query = torch.stack([gradient(x) for x in TEXTS]), gradient("the cat sat")
    inverse = torch.linalg.inv(op.dense() + 0.1 * torch.eye(task.P, dtype=torch.float64))
    wanted = query @ inverse @ train.T
    assert (scores[0] - wanted).abs().max() < 1e-5 * wanted.abs().max()


CHANGES = {
    "no config": "E0893", "not JSON": "E0893", "another kind": "E0893", "a pickle": "E0893", "code": "E0892",
    "of a deeper model": "E0893", "of a wider model": "E0893",
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_refused(checkpoint, lora, change):
    config = lora / "adapter_config.json"
    said = json.loads(config.read_text())
    model = checkpoint
    match change:
        case "no config":
            config.unlink()
        case "not JSON":
            config.write_text("{")
        case "another kind":
            config.write_text(json.dumps(said | {"peft_type": "PREFIX_TUNING"}))
        case "a pickle":
            (lora / "adapter_model.safetensors").rename(lora / "adapter_model.bin")
        case "code":
            config.write_text(json.dumps(said | {"auto_map": {"AutoModel": "x.Y"}}))
        case _:
            model = Path("other")
            shutil.copytree(checkpoint, model)
            saved(model, layers=2) if "deeper" in change else saved(model, width=12)
    with pytest.raises(cv.SpecError, match=CHANGES[change]):
        loaded(model, lora)


def test_an_adapter_in_place_of_a_model(lora):
    with pytest.raises(cv.SpecError, match="E0891") as caught:
        loaded(lora, None)
    assert 'adapter = "lora"' in str(caught.value)


def classifying(base, words, folder, classes=3):
    """An adapter of a classifier whose head is in its folder, over a checkpoint with another head."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification

    plain = AutoModelForSequenceClassification.from_pretrained(base, num_labels=classes)
    config = LoraConfig(r=2, target_modules=words, task_type="SEQ_CLS", fan_in_fan_out=True)
    torch.manual_seed(1)
    made = get_peft_model(plain, config)
    for p in made.parameters():
        if p.requires_grad:
            torch.nn.init.normal_(p, std=0.1)
    made.save_pretrained(folder)
    return made.eval()


def test_an_adapter_brings_its_head(tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    own = tokenizer(pad=True)
    base = tmp_path / "base"
    config = GPT2Config(
        vocab_size=len(own), n_positions=16, n_embd=8, n_layer=1, n_head=2, pad_token_id=2
    )
    GPT2LMHeadModel(config).save_pretrained(base)
    own.save_pretrained(base)
    made = classifying(base, ["c_attn"], tmp_path / "adapter")
    rows = [{"text": x, "label": k % 3} for k, x in enumerate(TEXTS)]
    task = cv.Task.pretrained(base, rows, query=rows[:2], adapter=tmp_path / "adapter")
    assert {name.split(".")[-3] for name in task.parameters} == {
        "lora_A",
        "lora_B",
        "modules_to_save",
    }
    for row, found in zip(rows, task.model(task.train[0]), strict=True):
        with torch.no_grad():
            wanted = made(input_ids=torch.tensor([own(row["text"])["input_ids"]])).logits[0]
        assert torch.allclose(found, wanted, atol=1e-5)
    assert cv.influence(cv.fit("ekfac_lm", task), task, damping=0.1).shape == (2, len(TEXTS))
    assert task.build(0).score.modules_to_save.default.weight.shape == (3, 8)


def test_an_adapter_that_leaves_a_part_of_the_head_out(tmp_path):
    from transformers import BertConfig, BertForMaskedLM

    own = tokenizer(pad=True)
    base = tmp_path / "base"
    sizes = {
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
    }
    BertForMaskedLM(BertConfig(vocab_size=len(own), **sizes)).save_pretrained(base)
    own.save_pretrained(base)
    classifying(base, ["query"], tmp_path / "adapter")
    rows = [{"text": x, "label": 0} for x in TEXTS]
    with pytest.raises(cv.SpecError, match=r"E0891.*pooler"):
        cv.Task.pretrained(base, rows, query=rows[:2], adapter=tmp_path / "adapter")
