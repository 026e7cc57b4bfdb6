"""Exchange with the toolkit of the paper's authors: its label CSV and its YAML of models [T]."""

from __future__ import annotations

import os
from typing import Any

import pandas as pd
import yaml

from prefill_router.answers.targets import Endpoint
from prefill_router.errors import InputError
from prefill_router.labels import Labels, long_table
from prefill_router.labels.tables import write_table
from prefill_router.storage import atomic_write
from prefill_router.validation import checked, read_mapping

PROVIDERS = {  # what a model's LiteLLM name begins with: where it is asked, and whose key it takes
    "openrouter": ("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
    "nvidia_nim": ("https://integrate.api.nvidia.com/v1", "NVIDIA_API_KEY"),
    "openai": ("https://api.openai.com/v1", "OPENAI_API_KEY"),
}
NEEDED = ("name", "litellm_model", "cost_per_m_input_tokens", "cost_per_m_output_tokens")


def write_toolkit_labels(labels: Labels, path: str | os.PathLike) -> tuple[int, int]:
    """Write labels as the toolkit's CSV: question, model, isCorrect, output_tokens.

    The toolkit counts a missing answer as wrong [T]: a question is written only if every target
    was asked it. An unknown length is left empty.

    Returns
    -------
    n, left_out : int
        Labels written, and questions left out.

    Raises
    ------
    InputError
        If no question is left, or two questions have the same text, which is how the toolkit tells
        them apart.
    """
    whole = labels.take(labels.complete)
    if not whole.n_queries:
        raise InputError("No question was asked of every target, so that nothing can be written.")
    if len(twice := whole.question[pd.Series(whole.question).duplicated()]):
        raise InputError(
            f"The question {twice[0]!r:.80} occurs twice; the toolkit tells questions apart by "
            "their text. Keep one."
        )
    table = long_table(whole)[["question", "model", "is_correct", "output_tokens"]]
    table = table.rename(columns={"is_correct": "isCorrect"}).astype({"output_tokens": "Int64"})
    write_table(table, path)
    return len(table), labels.n_queries - whole.n_queries


def import_pool(source: str | os.PathLike, out: str | os.PathLike) -> list[Endpoint]:
    """Write the toolkit's YAML of models as a loop's YAML file of targets, and return them.

    Parameters
    ----------
    source : path-like
        Its ``models`` have ``name``, ``litellm_model`` (``PROVIDER/MODEL``),
        ``cost_per_m_input_tokens``, ``cost_per_m_output_tokens`` and perhaps ``api_base``,
        ``system_prompt`` and ``chat_template_kwargs``; the section ``routing`` is not read.
    out : path-like
        The loop's file.

    Raises
    ------
    InputError
        If it is no such file, a price is missing (an unknown price is not 0), or a provider's
        address is unknown.
    """
    entries = read_mapping(source).get("models")
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{source} has no list of models.")
    endpoints = [_endpoint(entry, f"{source}, model {i}") for i, entry in enumerate(entries, 1)]
    names = [endpoint.name for endpoint in endpoints]
    if len(set(names)) < len(names):
        raise InputError(f"{source} names the model {max(names, key=names.count)!r} twice.")
    targets = [endpoint.model_dump(exclude_defaults=True) for endpoint in endpoints]
    with atomic_write(out) as temporary:
        text = yaml.safe_dump({"targets": targets}, sort_keys=False, allow_unicode=True)
        temporary.write_text(text, encoding="utf-8")
    return endpoints


def _endpoint(entry: Any, where: str) -> Endpoint:
    for name in NEEDED:
        if not isinstance(entry, dict) or entry.get(name) is None:
            raise InputError(f"{where} has no {name}.")
    name, called, *prices = (entry[name] for name in NEEDED)
    provider, _, model = str(called).partition("/")
    address, key = PROVIDERS.get(provider, ("", ""))
    if own := entry.get("api_base"):
        address, key = own, ""  # a provider's key goes to no other server
    if not model or not address:
        known = ", ".join(PROVIDERS)
        raise InputError(
            f"{where}: the address of {called!r:.80} is unknown (known: {known}); add api_base."
        )
    kwargs = entry.get("chat_template_kwargs")
    fields = {
        "name": name,
        "base_url": address,
        "model": model,
        "key": key,
        "price": dict(zip(("input", "output"), prices, strict=True)),
        "system": entry.get("system_prompt") or "",
        "extra": {"chat_template_kwargs": kwargs} if kwargs else {},
    }
    return checked(Endpoint, fields, where)
