import pytest

from prefill_router.zoo.skills import benchmark
from prefill_router.zoo.vocabulary import build_tokenizer


@pytest.fixture(scope="session")
def queries():
    return benchmark()


@pytest.fixture(scope="session")
def tokenizer():
    return build_tokenizer()
