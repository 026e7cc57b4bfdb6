"""The embedded default: a skills benchmark, and tiny language models trained to answer it."""

from pathlib import Path

HERE = Path(__file__).parent
LABELS = HERE / "labels.parquet"
PRICES = HERE / "prices.csv"
# Ten answers at temperature 1 of every target to every validation and test question.
SAMPLES = HERE / "samples.parquet"
