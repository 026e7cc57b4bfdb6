import pytest

from prefill_router.promises import promises


@pytest.fixture(scope="module")
def priced(study):
    return promises(study, draws=3, simulated=20)


def test_x(priced):
    for r in priced:
        print(r)
