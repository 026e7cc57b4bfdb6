"""Random models of a few thousand weights and a word-level tokenizer, for tests."""

import copy
import json

import numpy as np
import torch
from architectures import ARCHITECTURES
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedTokenizerFast

from prefill_router.extraction import extract

SPECIAL = ["<pad>", "<eos>", "<unk>", "<user>", "<assistant>"]
WORDS = [f"w{i}" for i in range(20)]
TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}> {{ message['content'] }}{% endfor %}"
    "{% if thinking %} w0{% endif %}{% if add_generation_prompt %} <assistant>{% endif %}"
)


def tokenizer(padding_side="right", template=None, pad=True, limit=30):
    vocabulary = {token: i for i, token in enumerate(SPECIAL + WORDS)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>" if pad else None,
        eos_token="<eos>",
        unk_token="<unk>",
        padding_side=padding_side,
        chat_template=template,
        model_max_length=limit,
    )


def byte_tokenizer(template=None, merges=()):
    """Return a tokenizer that reads any text, one token a byte but for the pairs merged."""
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *map("".join, merges)]
    backend = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, list(merges)))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, chat_template=template, clean_up_tokenization_spaces=False
    )


def model(name, auto=AutoModel, seed=0, vocabulary=None, positions=None):
    config = copy.deepcopy(ARCHITECTURES[name].config)
    if vocabulary:
        config.vocab_size = vocabulary
    if positions:
        config.max_position_embeddings = positions
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return auto.from_config(config).eval()


def save(directory, name="qwen3", auto=AutoModelForCausalLM, seed=0, template=None):
    model(name, auto, seed).save_pretrained(directory)
    tokenizer(template=template).save_pretrained(directory)
    return directory


def questions(n=9, seed=0):
    """Return questions of 1 to 12 words, in no order of length."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 13, (n,), generator=generator).tolist()
    return [
        " ".join(WORDS[i] for i in torch.randint(20, (length,), generator=generator).tolist())
        for length in lengths
    ]


def read(model, tokenizer, questions, **settings):
    return extract((model, tokenizer), questions, **settings)


def stacked(found):
    """Return activations as one array (n_layers, n_poolings, N, D)."""
    return np.stack([[found.states(i, name) for name in found.poolings] for i in found.layers])


def states_of(model, tokenizer, questions, **settings):
    return stacked(read(model, tokenizer, questions, **settings))


def edit(path, **changes):
    """Change fields of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
