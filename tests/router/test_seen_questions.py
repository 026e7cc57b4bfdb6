import hashlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from prefill_router.router.measurement import digests

TEXTS = st.lists(st.text("ab \n\ud800é", max_size=6), max_size=30)


@given(TEXTS, TEXTS)
def test_questions_are_found_again_but_for_white_space_around_them(known, asked):
    kept = np.unique(digests(known))
    assert kept.dtype == np.uint64 and kept.shape == (len({text.strip() for text in known}),)
    expected = [text.strip() in {other.strip() for other in known} for text in asked]
    assert np.isin(digests(asked), kept).tolist() == expected


def test_a_digest_is_the_head_of_sha256_on_every_machine():
    head = hashlib.sha256(b"What is 1 + 1?").digest()[:8]
    assert digests([" What is 1 + 1?"]).tolist() == [int.from_bytes(head, "little")]
