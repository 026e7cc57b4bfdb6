"""Tiny models as llama.cpp's converter writes them, beside the same weights in safetensors."""

import contextlib

import numpy as np
import tiny_models
import torch
from architectures import ARCHITECTURES, LARGE
from transformers import AutoModelForCausalLM

with contextlib.suppress(ImportError):
    import gguf

SIX = {"num_hidden_layers": 6, "layer_types": ["sliding_attention"] * 5 + ["full_attention"]}
WRITTEN = {
    "llama": ("llama", {}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {"head_dim": 128}),
    "gemma2": ("gemma2", {}),
    "gemma3_text": ("gemma3", SIX),
    "stablelm": ("stablelm", {}),
}
"""Architectures that are written, what GGUF calls them, and the shape that it takes for granted."""
TEMPLATE = "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}{% endfor %}"
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
STATED = {
    "context_length": "max_position_embeddings", "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size", "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads", "vocab_size": "vocab_size",
    "attention.head_count_kv": "num_key_value_heads", "attention.key_length": "head_dim",
    "attention.sliding_window": "sliding_window",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.layer_norm_epsilon": "layer_norm_epsilon",
}  # fmt: skip


def tokenizer(template=TEMPLATE):
    made = tiny_models.byte_tokenizer(template, [("w", "1")])
    made.add_special_tokens(SPECIAL)
    return made


def model(key, **changes):
    """Return a model whose rows are long enough to be quantised."""
    ids = {name: 257 + i for i, name in enumerate(("bos_token_id", "eos_token_id", "pad_token_id"))}
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2, "head_dim": 32}
    config = ARCHITECTURES[key].config
    own = shape | ids | {"vocab_size": 260, "initializer_range": LARGE / 2}
    own |= WRITTEN[key][1] | changes
    config = type(config).from_dict(config.to_dict() | own)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config).eval()


def as_ggml(key, name, rows, config):
    """Return a matrix as llama.cpp has it: Llama's rotary pairs side by side, Gemma's norms + 1."""
    if key.startswith("gemma") and "norm" in name:
        return rows + 1
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for part, n in heads.items() if key == "llama" else ():
        if part in name:
            return rows.reshape(n, 2, -1, rows.shape[-1]).swapaxes(1, 2).reshape(rows.shape)
    return rows


def save(
    directory,
    key="llama",
    kind="F32",
    template=TEMPLATE,
    fields=(),
    tensors=(),
    adds_bos=False,
    **changes,
):
    """Write ``model.gguf`` and, in ``same``, what it holds in Hugging Face layout.

    Parameters
    ----------
    directory : pathlib.Path
    key : str
        One of `WRITTEN`.
    kind : str
        How matrices are stored, as ggml calls it.
    fields, tensors : mapping, optional
        To add: numbers or texts, and arrays.
    changes
        Of the config.
    """
    made, kind = model(key, **changes), gguf.GGMLQuantizationType[kind]
    config, text = made.config, tokenizer(template)
    writer = gguf.GGUFWriter(directory / "model.gguf", WRITTEN[key][0])
    own = {ours: getattr(config, theirs, None) for ours, theirs in STATED.items()}
    rope = config.rope_parameters
    own["rope.freq_base"] = rope.get("full_attention", rope)["rope_theta"]
    if key == "stablelm":
        own["attention.layer_norm_epsilon"] = config.layer_norm_eps
    for name, value in {**own, **dict(fields)}.items():
        add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        if value is not None:
            add[type(value)](f"{WRITTEN[key][0]}.{name}", value)
    words = sorted(text.get_vocab(), key=text.get_vocab().get)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([3 if word in SPECIAL.values() else 1 for word in words])
    writer.add_token_merges(["w 1"])
    writer.add_bos_token_id(text.bos_token_id)
    writer.add_eos_token_id(text.eos_token_id)
    writer.add_pad_token_id(text.pad_token_id)
    if template:
        writer.add_chat_template(template)
    writer.add_add_bos_token(adds_bos)
    architecture = next(k for k, v in gguf.MODEL_ARCH_NAMES.items() if v == WRITTEN[key][0])
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    for name, weights in made.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        stored = gguf.GGMLQuantizationType.F32 if weights.ndim == 1 else kind
        rows = gguf.quantize(weights.numpy(), stored)
        weights.copy_(torch.tensor(gguf.dequantize(rows, stored)))
        rows = np.ascontiguousarray(as_ggml(key, name, rows, config))
        writer.add_tensor(names.get_name(name, (".weight", ".bias")), rows, raw_dtype=stored)
    for name, array in dict(tensors).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    made.save_pretrained(directory / "same")
    text.save_pretrained(directory / "same")
    return directory / "model.gguf"
