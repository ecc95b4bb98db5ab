"""Checkpoints are read whole or refused: no code, no pickle, nothing left as initialised."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import curvlang as cv
from tests.models.language_models.checkpoints import TEXTS, gpt2, saved, tokenizer


def loaded(path, **words):
    return cv.Task.pretrained(path, list(TEXTS), query=["the cat sat"], **words)


def changed(checkpoint, change):
    """A copy of the checkpoint, changed."""
    at = Path("copy")
    shutil.copytree(checkpoint, at)
    config = json.loads((at / "config.json").read_text())
    tensors = at / "model.safetensors"
    match change:
        case "no config":
            (at / "config.json").unlink()
        case "config that is not JSON":
            (at / "config.json").write_text("{")
        case "no tensors":
            tensors.unlink()
        case "a pickle alone":
            torch.save(load_file(tensors), at / "pytorch_model.bin")
            tensors.unlink()
        case "a damaged file":
            tensors.write_bytes(tensors.read_bytes()[:200])
        case "a tensor less":
            held = load_file(tensors)
            del held["transformer.h.0.mlp.c_fc.weight"]
            save_file(held, tensors, {"format": "pt"})
        case "another shape":
            config["n_inner"] = 8
            (at / "config.json").write_text(json.dumps(config))
        case "code of the model":
            config["auto_map"] = {"AutoModelForCausalLM": "modeling.Net"}
            (at / "config.json").write_text(json.dumps(config))
        case "code of the tokenizer":
            (at / "tokenizer_config.json").write_text(
                '{"auto_map": {"AutoTokenizer": ["t.T", null]}}'
            )
        case "no head":
            config["architectures"] = ["GPT2Model"]
            (at / "config.json").write_text(json.dumps(config))
        case "no tokenizer":
            (at / "tokenizer.json").unlink()
        case "a tokenizer that is damaged":
            (at / "tokenizer.json").write_text("{}")
        case "a tokenizer of more words":
            other = tokenizer()
            other.add_tokens([f"word{k}" for k in range(5)])
            other.save_pretrained(at)
        case _:
            raise AssertionError(change)
    return at


CHANGES = {
    "no config": "E0891", "config that is not JSON": "E0891", "no tensors": "E0891", "a pickle alone": "E0891",
    "a damaged file": "E0891", "a tensor less": "E0891", "another shape": "E0891", "code of the model": "E0892",
    "code of the tokenizer": "E0892", "no head": "E0899", "no tokenizer": "E0894",
    "a tokenizer that is damaged": "E0894", "a tokenizer of more words": "E0894",
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_refused(checkpoint, change):
    with pytest.raises(cv.SpecError, match=CHANGES[change]) as caught:
        loaded(changed(checkpoint, change))
    assert "copy" in str(caught.value)
    assert "help" in str(caught.value)


def test_a_folder_that_is_not_there():
    with pytest.raises(cv.SpecError, match="E0891"):
        loaded("nowhere/at all")


def test_parameters_are_those_of_the_file_and_the_global_generator_stays(checkpoint):
    before = torch.random.get_rng_state()
    task = loaded(checkpoint)
    held = load_file(checkpoint / "model.safetensors")
    for name, p in task.model.named_parameters():
        assert torch.equal(p, held[name]), name
    assert not task.model.training
    assert "read from" in task.origin.text
    first, same, other = (task.build(seed) for seed in (1, 1, 2))
    assert torch.equal(first.lm_head.weight, same.lm_head.weight)
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)
    assert torch.equal(before, torch.random.get_rng_state())


def test_tied_weights_are_one_parameter(checkpoint, tmp_path):
    assert "lm_head.weight" not in loaded(checkpoint).parameters
    assert "lm_head.weight" in loaded(saved(tmp_path / "untied", tied=False)).parameters


def test_a_checkpoint_in_half_precision_is_read_in_float32(tmp_path):
    own = tokenizer()
    gpt2(len(own)).bfloat16().save_pretrained(tmp_path / "half")
    own.save_pretrained(tmp_path / "half")
    task = loaded(tmp_path / "half")
    assert task.dtype == torch.float32
    assert cv.fit("kfac_lm", task).parameters == task.parameters


def test_a_tokenizer_from_another_folder(checkpoint, tmp_path):
    bare = changed(checkpoint, "no tokenizer")
    assert len(TEXTS) == loaded(bare, tokenizer=checkpoint).N


def test_a_checkpoint_without_its_package(checkpoint, monkeypatch):
    for name in ("transformers", "datasets"):
        with monkeypatch.context() as patch:
            patch.setitem(__import__("sys").modules, name, None)
            with pytest.raises(cv.SpecError, match="E0890") as caught:
                loaded(checkpoint)
            assert "curvlang[hf]" in str(caught.value)


@pytest.mark.parametrize(
    "call",
    [
        "PreTrainedConfig.get_config_dict",
        "AutoConfig.from_pretrained",
        "AutoTokenizer.from_pretrained",
        "AutoModelForCausalLM.from_pretrained",
    ],
)
def test_a_torchvision_of_another_build_is_named(checkpoint, monkeypatch, call):
    def fails(*_, **__):
        try:
            raise RuntimeError("operator torchvision::nms does not exist")
        except RuntimeError as error:
            raise ModuleNotFoundError("Could not import module 'GPT2Config'") from error

    monkeypatch.setattr(f"transformers.{call}", fails)
    with pytest.raises(cv.SpecError, match="E0890") as caught:
        loaded(checkpoint)
    assert "operator torchvision::nms does not exist" in str(caught.value)
    assert "pip uninstall torchvision" in str(caught.value)


def family(name, tokens):
    """A small random model of a family: untied, scaled embeddings, grouped heads, no cache."""
    import transformers as hf

    torch.manual_seed(0)
    sizes = {
        "hidden_size": 8,
        "intermediate_size": 12,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    few = {
        "vocab_size": tokens,
        "max_position_embeddings": 16,
        "bos_token_id": 1,
        "eos_token_id": 1,
    }
    match name:
        case "llama":
            return hf.LlamaForCausalLM(hf.LlamaConfig(**sizes, **few, num_key_value_heads=1))
        case "gemma2":
            own = {
                "num_key_value_heads": 1,
                "head_dim": 4,
                "pad_token_id": 0,
                "tie_word_embeddings": False,
            }
            return hf.Gemma2ForCausalLM(hf.Gemma2Config(**sizes, **few, **own))
        case _:
            own = {
                "dim": 8,
                "hidden_dim": 12,
                "n_layers": 1,
                "n_heads": 2,
                "num_labels": 2,
                "pad_token_id": 0,
            }
            config = hf.DistilBertConfig(vocab_size=tokens, max_position_embeddings=16, **own)
            return hf.DistilBertForSequenceClassification(config)


@pytest.mark.parametrize("name", ["llama", "gemma2", "distilbert"])
def test_other_families_form_no_factor_of_words(tmp_path, name):
    own = tokenizer()
    family(name, len(own)).save_pretrained(tmp_path / name)
    own.save_pretrained(tmp_path / name)
    rows = [{"text": x, "label": k % 2} for k, x in enumerate(TEXTS)]
    task = cv.Task.pretrained(tmp_path / name, rows, query=rows[:2])
    op = cv.fit("ekfac_lm", task)
    factored = {k: x for k, x in op.blocks.items() if x.describe().startswith("EigenBasis")}
    assert factored
    assert not any("embed" in k or "head" in k for k in factored)
    assert cv.influence(op, task, damping=0.1).shape == (2, len(TEXTS))


OTHER = {
    "WhisperForConditionalGeneration": ("whisper", "which reads audio"),
    "Wav2Vec2ForSequenceClassification": ("wav2vec2", "which reads audio"),
    "LlavaForConditionalGeneration": ("llava", "no encoder of texts"),
    "BertForMaskedLM": ("bert", "models of that kind are not read"),
}


@pytest.mark.parametrize("name", OTHER)
def test_models_that_read_something_else_are_named(tmp_path, name):
    """Told by what the folder says; no tensor is read."""
    kind, said = OTHER[name]
    (tmp_path / "config.json").write_text(json.dumps({"architectures": [name], "model_type": kind}))
    (tmp_path / "model.safetensors").write_bytes(b"")
    rows = [{"source": "a cat", "target": "a dog", "text": "a cat", "label": 0}]
    with pytest.raises(cv.SpecError, match=f"E0899.*{name}.*{said}"):
        cv.Task.pretrained(tmp_path, rows, query=rows)


def test_quantised_parameters_are_named(tmp_path):
    own = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}
    own["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (tmp_path / "config.json").write_text(json.dumps(own))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(cv.SpecError, match=r"E0891.*quantised \(`gptq`\)"):
        cv.Task.pretrained(tmp_path, list(TEXTS))


@pytest.mark.parametrize(("given", "said"), [("nothing_here", "no folder"), ("mpl", "`mlp`")])
def test_a_model_that_is_no_folder_and_no_name(given, said):
    with pytest.raises(cv.SpecError, match=r"E0715") as caught:
        cv.task(cv.TaskSource(model=given, data="digits"))
    assert said in str(caught.value)
