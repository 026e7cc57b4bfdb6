"""Which modules of the package some code rests on, read from its import statements."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterable
from pathlib import Path

PACKAGE = __name__.partition(".")[0]


def closure(modules: Iterable[str]) -> dict[str, Path]:
    """Return modules with all that they import, directly or through others.

    Parameters
    ----------
    modules : iterable of str
        Full names, such as ``prefill_router.trunk``.

    Returns
    -------
    dict of str to pathlib.Path
        The source file of every module of this package among them, by name. What is imported
        inside a function counts as well.
    """
    found, waiting = {}, list(modules)
    while waiting:
        name = waiting.pop()
        path = _file(name)
        if name not in found and path is not None:
            found[name] = path
            waiting += imported(path.read_text(encoding="utf-8"))
    return dict(sorted(found.items()))


@functools.lru_cache(maxsize=1024)
def imported(source: str) -> list[str]:
    """Return the modules of this package that a source text's import statements may mean."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    parts = [name.split(".") for name in names if name.split(".")[0] == PACKAGE]
    parents = {".".join(p[:n]) for p in parts for n in range(1, len(p) + 1)}
    return sorted(name for name in parents if _file(name) is not None)


def _file(module: str) -> Path | None:
    """Return where a module of this package lies, None if there is no such module."""
    first, *rest = module.split(".")
    path = Path(__file__).parent.joinpath(*rest)
    if first != PACKAGE:
        return None
    candidates = (path / "__init__.py", path.with_suffix(".py") if rest else path)
    return next((file for file in candidates if file.is_file()), None)
