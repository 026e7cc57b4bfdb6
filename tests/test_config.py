import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from prefill_router import config
from prefill_router.answers.targets import Endpoint
from prefill_router.config import (
    PLACES,
    Loop,
    Parameters,
    from_namespace,
    project_root,
    validate,
)
from prefill_router.errors import InputError
from prefill_router.validation import checked

NAMES = list(Parameters.model_fields)


def test_a_misspelled_name_is_refused_with_a_suggestion():
    for name in NAMES:
        with pytest.raises(InputError) as caught:
            validate({f"{name}x": 1}, "mine.yaml")
        said = f"mine.yaml: {name}x: no such parameter. Did you mean '{name}'?"
        assert str(caught.value) == said


BAD = {
    "labels": [""], "targets": [["a", "a"], "[a, [b]]", "[a, b"], "poolings": ["", ["max"]],
    "dimensions": ["", 0, 1.5, "many", "8, 8"], "layers": [[], True, -1, "many", "2, 2"],
    "seed": [-1, 2**32], "n_queries": [-1], "n_seeds": [0], "keep": [0, 11], "inner_folds": [1],
    "n_resamples": [99], "criterion": ["auroc"], "truncation": ["both"],
    "dtype": ["float64"], "engine": ["dask"],
}  # fmt: skip


def test_a_bad_value_is_refused_by_name_and_shown():
    for name in NAMES:
        for value in (None, {"a": 1}, 1j, *BAD.get(name, ())):
            with pytest.raises(InputError, match=rf"^here: {name}(\[\d+\])?: .*given: ") as caught:
                validate({name: value}, "here")
            assert "\n" not in str(caught.value)


def test_more_cannot_be_kept_than_are_trained():
    assert validate({"n_seeds": 3, "keep": 3}).keep == 3
    with pytest.raises(InputError, match=r"keep: .*n_seeds \(3\)"):
        validate({"n_seeds": 3})


def test_every_complaint_is_made_at_once_with_where_it_comes_from():
    with pytest.raises(InputError) as caught:
        validate({"seed": -1, "dtpye": "float32", "keep": 0}, "file", {"seed": -2, "n_seeds": 0})
    said = str(caught.value)
    assert "-p: seed: " in said and "given: -2" in said and "given: -1" not in said
    assert "-p: n_seeds: " in said and "file: keep: " in said
    assert "file: dtpye: no such parameter" in said


def test_values_may_be_text():
    for name, text, wanted in (
        ("dimensions", "[2, 3]", [2, 3]), ("dimensions", 2, [2]), ("layers", "4", [4]),
        ("layers", "upper", "upper"), ("targets", "['a, b', c]", ["a, b", "c"]),
        ("targets", "", []), ("poolings", "mean,", ["mean"]), ("fresh_labels", "true", True),
        ("n_queries", "300", 300),
    ):  # fmt: skip
        assert getattr(validate({name: text}), name) == wanted


def parameters_cell(*names):
    """Return the source of a `parameters` cell: typed, commented defaults, of all unless named."""
    fields = {name: Parameters.model_fields[name] for name in names or NAMES}
    return "\n".join(
        f"{name}: {type(field.default).__name__} = "
        + (str if isinstance(field.default, bool) else json.dumps)(field.default)
        + f"  # {field.description}"
        for name, field in fields.items()
    )


@pytest.mark.parametrize("shown", [(), ("labels", "seed")])
def test_a_namespace_gives_back_the_parameters_set_in_it(shown):
    """As in a kernel: the cell, what papermill injects after it, IPython's names and imports."""
    namespace = {"In": [""], "Out": {}, "_": 3, "_i1": "x", "_dh": ["."], "exit": exit}
    exec(parameters_cell(*shown), namespace)
    assert from_namespace(namespace) == Parameters()
    exec("encoder = 'zoo/reader-s'\ndimensions = '[2, 3]'", namespace)
    exec("import numpy as np\nfrom pathlib import Path", namespace)
    assert from_namespace(namespace) == validate({"encoder": "zoo/reader-s", "dimensions": [2, 3]})
    namespace["encodr"] = "zoo/reader-m"
    with pytest.raises(InputError, match=r"encodr: no such parameter. Did you mean 'encoder'"):
        from_namespace(namespace)


def test_the_fingerprint_ignores_where_and_on_what_and_nothing_else():
    base = Parameters()
    other = {
        "labels": "a.csv", "prices": "", "targets": ["a", "b"], "encoder": "a", "encoders": [],
        "untrained": "", "embedding": "a", "layers": "upper", "poolings": ["mean"],
        "dimensions": [3], "criterion": "J", "max_tokens": 9, "truncation": "left",
        "n_queries": 9, "outer_folds": 2, "inner_folds": 2, "n_seeds": 9, "keep": 2,
        "n_resamples": 100, "slow_routers": True, "fresh_labels": True,
        "dtype": "float16", "seed": 1,
    }  # fmt: skip
    assert {*other, *PLACES} == set(NAMES)
    found = {name: validate({name: value}).fingerprint for name, value in other.items()}
    assert len({base.fingerprint, *found.values()}) == len(other) + 1
    places = {"device": "cuda", "engine": "ray", "address": "a:1", "run_dir": "runs/x"}
    assert set(places) == PLACES
    assert validate(places).fingerprint == base.fingerprint


def test_the_source_tree_is_found_from_anywhere_but_a_wheel(tmp_path, monkeypatch):
    code = "from prefill_router.config import project_root; print(project_root())"
    root = Path(__file__).resolve().parents[1]
    command, given = [sys.executable, "-c", code], {"PYTHONPATH": str(root)}
    assert subprocess.check_output(command, cwd=tmp_path, env=given, text=True) == f"{root}\n"
    monkeypatch.setattr(config, "__file__", str(tmp_path / "prefill_router" / "config.py"))
    with pytest.raises(InputError, match="clone the repository"):
        project_root()


# -- the loop ------------------------------------------------------------------------------------

REMOTE = {"name": "a", "base_url": "https://host/v1", "model": "m"}


def read_loop(given=None, **values):
    return checked(Loop, values, "loop.yaml", given)


def test_local_models_and_endpoints_stand_side_by_side():
    remote = REMOTE | {"price": {"input": 1, "output": 0}}
    given = {"seed": 4, "exclude": "a, b", "layers": "3,5"}
    mine = {"name": "models/mine", "price": {"input": 2, "output": 0}}
    loop = read_loop(given, targets=["zoo/gpt2-a", mine, remote], seed=3)
    assert loop.target_names == ["zoo/gpt2-a", "models/mine", "a"]
    assert loop.price_table().input == {"models/mine": 2, "a": 1}
    assert isinstance(loop.targets[2], Endpoint)
    assert (loop.seed, loop.exclude, loop.layers) == (4, ["a", "b"], [3, 5])
    assert read_loop({"targets": "x, y"}, targets=["a"]).targets == ["x", "y"]


def test_what_cannot_be_is_named():
    for target, said in (
        ({"name": "a"}, "targets[0].base_url: Field required"),
        (REMOTE | {"timeout": -1}, "targets[0].timeout: "),
        (["a"], "targets[0]: "),
        (REMOTE | {"price": {"input": 1, "output": float("inf")}}, ".price.output"),
    ):
        with pytest.raises(InputError, match=rf"loop.yaml: .*{re.escape(said)}"):
            read_loop(targets=[target])
    with pytest.raises(InputError, match="'a', 'a'] names something twice"):
        read_loop(targets=[REMOTE, "a"])
    for name, value in {"tau": 2, "cap_usd": True, "policy": "luck"}.items():
        with pytest.raises(InputError, match=f"loop.yaml: {name}: "):
            read_loop(**{name: value})


def test_a_key_written_into_the_file_is_refused_and_not_repeated():
    for fields in (
        {"key": "sk-4711secret"}, {"base_url": "https://me:sk-4711secret@host/v1"},
        {"api_key": "sk-4711secret"}, {"extra": "Bearer sk-4711secret"},
        {"system": ["sk-4711secret"]},
    ):  # fmt: skip
        with pytest.raises(InputError) as error:
            read_loop(targets=[REMOTE | fields])
        assert "4711secret" not in str(error.value)


def test_prices_are_stated_once(tmp_path):
    (tmp_path / "p.csv").write_text("model,usd_per_m_input,usd_per_m_output\nb,1,2\n")
    priced = REMOTE | {"price": {"input": 3, "output": 4}}
    prices = str(tmp_path / "p.csv")
    table = read_loop(targets=[priced], prices=prices).price_table()
    assert (table.input, table.output) == ({"b": 1, "a": 3}, {"b": 2, "a": 4})
    assert Loop().price_table() is None
    assert "zoo/gpt2-a" in Loop(prices="zoo").price_table().input
    with pytest.raises(InputError, match="price of its own"):
        read_loop(targets=[priced | {"name": "b"}], prices=prices).price_table()


def test_every_field_is_explained():
    names = [name for name, _, meaning in Loop.explained() if meaning]
    wanted = [*Loop.model_fields, *(f"targets: {name}" for name in Endpoint.model_fields)]
    assert names == wanted
