from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from prefill_router import zoo
from prefill_router.answers.generation import Decoding, generate
from prefill_router.extraction import sources
from prefill_router.extraction.models import load_target
from prefill_router.extraction.sources import resolve
from prefill_router.storage import Store
from prefill_router.zoo import labelling
from prefill_router.zoo.recipes import RECIPES
from prefill_router.zoo.skills import benchmark
from prefill_router.zoo.training import build_model, export
from prefill_router.zoo.wordings import build_tokenizer


@pytest.fixture(scope="session")
def queries():
    return benchmark()


@pytest.fixture(scope="session")
def tokenizer():
    return build_tokenizer()


@pytest.fixture
def tiny_zoo(tmp_path, monkeypatch, queries):
    """Two untrained targets; every other reference is the first one's answer, where it says any."""
    monkeypatch.setattr(sources, "ZOO", tmp_path / "models")
    recipes = {
        name: replace(RECIPES[name], width=16, blocks=1, heads=2, steps=0)
        for name in ("gpt2-a", "thinker-e")
    }
    for name, recipe in recipes.items():
        export(build_model(recipe), recipe, tmp_path / "models" / name, 0)
    short = Decoding(max_new_tokens=8)
    asked = queries.groupby("split").head(8).reset_index(drop=True)  # cards have all scores
    answers, _ = generate(*load_target(resolve("zoo/gpt2-a")), asked["question"].tolist(), short)
    known = (np.arange(len(asked)) % 2 == 0) & [bool(answer.strip()) for answer in answers]
    asked["reference"] = np.where(known, answers, "never said")
    for name, value in {
        "TARGETS": tuple(recipes),
        "DECODING": short,
        "SAMPLING": replace(short, temperature=1.0),
        "benchmark": lambda: asked.copy(),
    }.items():
        monkeypatch.setattr(labelling, name, value)
    for name in ("LABELS", "PRICES", "SAMPLES"):
        monkeypatch.setattr(zoo, name, tmp_path / getattr(zoo, name).name)
    return SimpleNamespace(
        recipes=recipes, decoding=short, asked=asked, known=known, store=Store(tmp_path / "store")
    )
