"""No stage's numbers change while its VERSION stays, or stored artifacts would be stale."""

import golden
import pytest

from prefill_router.storage import read_json


@pytest.mark.parametrize("stage", golden.COMPUTE)
def test_numbers_change_only_with_the_version(stage, tmp_path):
    expected, again = read_json(golden.FILE), "run `python tests/golden.py`"
    assert not golden.raised(stage, expected["versions"]), f"a VERSION was raised: {again}"
    found = golden.compute(stage, tmp_path)
    assert golden.same(found, expected["numbers"][stage]), (
        f"the numbers of {stage} changed; raise its VERSION in prefill_router/storage.py, then "
        f"{again}: {found}"
    )
