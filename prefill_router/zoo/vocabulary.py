"""The zoo's tokenizer: one token a word, and one for each digit, letter and symbol."""

from __future__ import annotations

import re

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from prefill_router.zoo.families import LETTERS, NAMES
from prefill_router.zoo.wordings import ASIDES, TEMPLATES, TENS, UNITS

SPECIAL = ("<pad>", "<eos>", "<unk>", "<user>", "<assistant>")
SYMBOLS = tuple("0123456789") + tuple(LETTERS) + tuple("+-*=;:,.?()[]")
SPOKEN = ("true", "false", "and", "or", "xor", "not", "yes", "no", "even", "odd", "has", "answer",
          "bad", "hundred")  # fmt: skip
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<' + message['role'] + '> ' + message['content'] + ' ' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)


def vocabulary() -> list[str]:
    """Return every token in a fixed order (a set's order would change between processes)."""
    texts = [text for templates in TEMPLATES.values() for text in templates] + list(ASIDES)
    words = [word for text in texts for word in re.findall(r"[a-z]+", re.sub(r"{\w+}", "", text))]
    return list(dict.fromkeys([*SPECIAL, *SYMBOLS, *SPOKEN, *UNITS, *TENS, *NAMES, *words]))


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Return the tokenizer that every model of the zoo shares, with its chat template."""
    tokens = {token: i for i, token in enumerate(vocabulary())}
    tokenizer = Tokenizer(models.WordLevel(tokens, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.Punctuation("isolated"),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        additional_special_tokens=["<user>", "<assistant>"],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=192,
    )
