"""What a query costs at each target: afterwards, and as far as it is known before asking."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from prefill_router.errors import InputError, did_you_mean
from prefill_router.labels import Labels, tables
from prefill_router.labels.tables import Source

MILLION = 1_000_000
PER_MILLION = ("usd_per_m_input", "usd_per_m_output")
CELLS = {"model": (tables.filled, "the name of a model")} | dict.fromkeys(
    PER_MILLION, (tables.number, "a number of US dollars per million tokens, 0 or more")
)


@dataclass(frozen=True)
class Prices:
    """What models charge.

    Parameters
    ----------
    input, output : dict of str to float
        US dollars per million input and output tokens, by model.
    as_of : str
        When that was so, as the price file says; empty if it does not.
    source : str
        The price file, for error messages.
    """

    input: dict[str, float]
    output: dict[str, float]
    as_of: str = ""
    source: str = field(default="the price table", compare=False)

    def cost(self, target: str, n_input: np.ndarray, n_output: np.ndarray) -> np.ndarray:
        """Return what answers of so many tokens cost in USD; numbers as well as arrays."""
        return (n_input * self.input[target] + n_output * self.output[target]) / MILLION


def load_prices(source: Source) -> Prices:
    """Read a price table.

    Parameters
    ----------
    source : str, path-like or pandas.DataFrame
        A table with columns `model`, `usd_per_m_input` and `usd_per_m_output`, and perhaps
        `as_of`; others are not read. A price of 0 must be written as 0.

    Returns
    -------
    Prices

    Raises
    ------
    InputError
        If a column is missing, a model is named twice, or a price is missing, negative or not a
        number.
    """
    name = tables.source_name(source)
    table = tables.read_table(source)
    tables.require(table, CELLS, name, "a price table")
    table = tables.checked_cells(table.assign(model=table["model"].str.strip()), CELLS, name)
    again = table[table["model"].duplicated()]
    if len(again):
        row, model = again.index[0], again["model"].iloc[0]
        raise InputError(f"{name}, row {row}: {model!r} has a price already; keep one row.")
    as_of = ", ".join(sorted(set(table.get("as_of", [])) - {""}))
    prices = (table.set_index("model")[column].to_dict() for column in PER_MILLION)
    return Prices(*prices, as_of, name)


def has_costs(labels: Labels, prices: Prices | None) -> bool:
    """Say whether anything tells what an answer costs."""
    return prices is not None or not np.isnan(labels.cost_usd).all()


def query_costs(labels: Labels, prices: Prices | None, n_input_tokens: np.ndarray) -> np.ndarray:
    """Price every answer: input tokens and output tokens, or `cost_usd` where the labels have it.

    Parameters
    ----------
    labels : Labels
        With `output_tokens` or `cost_usd` of every query a target was asked.
    prices : Prices or None
        None will do where `cost_usd` is complete.
    n_input_tokens : ndarray of shape (N,) or (N, K)
        Length of each prompt in tokens, by target where their tokenizers differ.

    Returns
    -------
    ndarray of float64 of shape (N, K)
        US dollars; NaN where the target was never asked and nothing else tells the cost.

    Raises
    ------
    InputError
        If a price or the length of an answer is needed and unknown: an unknown cost is never 0.
    """
    n_input = _checked_lengths(labels, n_input_tokens)
    costs, tokens = labels.cost_usd.copy(), labels.output_tokens
    unstated = np.isnan(costs)
    unknown = unstated & np.isnan(tokens) & ~np.isnan(labels.correct)
    if unknown.any():
        k, row = np.argwhere(unknown.T)[0]
        raise InputError(
            f"Target {labels.targets[k]!r}: the labels say neither output_tokens nor cost_usd of "
            f"{unknown[:, k].sum()} answers (of query {str(labels.query_id[row])!r}, for one), so "
            "that their cost is unknown; give either."
        )
    for k in np.flatnonzero((unstated & ~np.isnan(tokens)).any(axis=0)):
        per_input, per_output = _rates(labels.targets[k], prices)
        priced = n_input[:, k] * per_input + tokens[:, k] * per_output
        costs[:, k] = np.where(unstated[:, k], priced, costs[:, k])
    return costs


def expected_costs(
    labels: Labels,
    prices: Prices | None,
    n_input_tokens: np.ndarray,
    train_rows: np.ndarray,
    typical: Callable[[np.ndarray], float] = np.median,
) -> np.ndarray:
    """Estimate what each query would cost at each target, from what is known before asking.

    A target is priced at the query's own input tokens and its *median* output length on training
    rows, as the paper is said to do [S]; or at the median of its `cost_usd`, see `cost_basis`.

    Parameters
    ----------
    labels : Labels
        Only its `train_rows` are looked at.
    prices : Prices or None
        None will do where every training answer has its `cost_usd`.
    n_input_tokens : ndarray of shape (N,) or (N, K)
        Length of each prompt in tokens, by target where their tokenizers differ.
    train_rows : ndarray of int
        Rows whose answers may be looked at.
    typical : callable, default numpy.median
        What sums up a target's training lengths, or costs; `numpy.mean` expects what is paid on
        average, where the median expects what is paid mostly.

    Returns
    -------
    ndarray of float64 of shape (N, K)
        US dollars; no NaN.

    Raises
    ------
    InputError
        If a price is unknown, or a target has no training answer of known length.
    """
    n_input = _checked_lengths(labels, n_input_tokens)
    amounts, (per_input, per_amount) = cost_basis(labels.take(train_rows), prices)
    expected = [typical(column[~np.isnan(column)]) for column in amounts.T]
    return n_input * per_input + np.array(expected) * per_amount


def cost_basis(train: Labels, prices: Prices | None) -> tuple[np.ndarray, np.ndarray]:
    """Return what answers are priced by: their tokens, or else their stated costs.

    Tokens come first, for they tell queries of one target apart: a target is priced by its
    `cost_usd` if all of its answers have one, and it has no price or not all lengths.

    Parameters
    ----------
    train : Labels
        Of n queries whose answers may be looked at.
    prices : Prices or None

    Returns
    -------
    amounts : ndarray of shape (n, K)
        Output tokens, or US dollars; NaN unknown, but not all of a target's.
    rates : ndarray of shape (2, K)
        US dollars for an input token, and for one of the amounts: 0 and 1 where these are costs.

    Raises
    ------
    InputError
        If a price is unknown, or a target has no answer of known length.
    """
    amounts, rates = train.output_tokens.copy(), np.empty((2, train.n_targets))
    for k, target in enumerate(train.targets):
        asked = ~np.isnan(train.correct[:, k])
        stated, lengths = train.cost_usd[asked, k], train.output_tokens[asked, k]
        has_tokens = prices is not None and target in prices.input and not np.isnan(lengths).any()
        if len(stated) and not np.isnan(stated).any() and not has_tokens:
            amounts[:, k], rates[:, k] = train.cost_usd[:, k], (0, 1)
        elif np.isnan(amounts[:, k]).all():
            raise InputError(
                f"Target {target!r}: the length (output_tokens) of none of its training answers "
                "is known, so that its cost cannot be estimated; add lengths, or give no prices."
            )
        else:
            rates[:, k] = _rates(target, prices)
    return amounts, rates


def _rates(target: str, prices: Prices | None) -> tuple[float, float]:
    """Return what an input and an output token cost, in US dollars."""
    if prices is None or target not in prices.input:
        where = "a price table (prices=FILE, with columns model, usd_per_m_input, usd_per_m_output)"
        hint = did_you_mean(target, prices.input) if prices else ""
        raise InputError(
            f"The price of target {target!r} is unknown: not all of its answers have a "
            f"cost_usd; add it to {prices.source if prices else where}, 0 if it is free.{hint}"
        )
    return prices.input[target] / MILLION, prices.output[target] / MILLION


def _checked_lengths(labels: Labels, n_input_tokens: np.ndarray) -> np.ndarray:
    lengths, shape = np.asarray(n_input_tokens, dtype=float), labels.correct.shape
    usable = lengths.shape in (shape[:1], shape)
    if not usable or not (np.isfinite(lengths) & (lengths >= 0)).all():
        raise InputError(
            f"n_input_tokens must hold one number of tokens for each of {labels.n_queries} "
            f"queries, or one for each target; it has shape {lengths.shape}."
        )
    return np.broadcast_to(lengths.reshape(len(lengths), -1), shape)
