"""Where the project's notebooks, pages and runs lie."""

from __future__ import annotations

from pathlib import Path

from prefill_router.errors import InputError


def project_root() -> Path:
    """Return the source tree the package runs from.

    Raises
    ------
    InputError
        If there is none: a wheel holds the library without notebooks and pages.
    """
    root = Path(__file__).resolve().parents[1]
    if not (root / "_toc.yml").is_file():
        raise InputError(
            "The notebooks and the book's pages are not part of an installed wheel: clone the "
            "repository and install it with `pip install -e '.[book]'`."
        )
    return root
