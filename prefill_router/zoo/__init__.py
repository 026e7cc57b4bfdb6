"""The embedded default: a skills benchmark and a zoo of tiny language models trained to answer it."""
