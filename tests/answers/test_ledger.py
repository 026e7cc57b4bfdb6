import pytest

from prefill_router.answers.ledger import Ledger, Reply
from prefill_router.errors import InputError


def reply(cost=0.25):
    return Reply("seven", 10, 2, "stop", cost)


def test_answers_and_spending_survive(tmp_path):
    with Ledger(tmp_path / "l", cap_usd=1.0) as ledger:
        first = ledger.ask("a", 0.5)
        assert (ledger.spent, ledger.uncertain, ledger.in_flight) == (0, 0.5, True)
        ledger.answer(first, "a", reply())
        assert (ledger.spent, ledger.uncertain, ledger.in_flight) == (0.25, 0, False)
        ledger.refuse(ledger.ask("b", 0.5))
        ledger.lose(ledger.ask("c", 0.125))
        ledger.ask("d", 0.125)  # and then the process dies
    with Ledger(tmp_path / "l", cap_usd=1.0) as again:
        assert again.answers == {"a": reply()}
        assert (again.spent, again.uncertain, again.in_flight) == (0.25, 0.25, False)
        assert again.allows(0.5) and not again.allows(0.51)
        assert again.ask("e", 0.0) == 4  # numbers are never used twice


def test_an_answer_of_unknown_cost_counts_as_the_most_it_can_have_cost(tmp_path):
    for _ in range(2):
        with Ledger(tmp_path / "l", cap_usd=1.0) as ledger:
            if not ledger.answers:
                ledger.answer(ledger.ask("a", 0.75), "a", reply(None))
            assert (ledger.spent, ledger.uncertain) == (0, 0.75)
            assert not ledger.in_flight
            assert not ledger.allows(0.3)


def test_without_a_cap_everything_is_allowed(tmp_path):
    with Ledger(tmp_path / "l") as ledger:
        assert ledger.allows(1e9)


@pytest.mark.parametrize(
    "line",
    [
        '{"event": "asked", "attempt": 0}',
        '{"event": "answered", "attempt": 7, "key": "a", "reply": {}}',
        '{"event": "refused", "attempt": 7}',
        '{"something": "else"}',
    ],
)
def test_a_foreign_journal_is_refused(tmp_path, line):
    (tmp_path / "l").write_text(line + '\n{"event": "asked", "attempt": 1, "worst_usd": 0}\n')
    for _ in range(2):  # and let go of
        with pytest.raises(InputError, match="record 1, is none of this version's"):
            Ledger(tmp_path / "l")
