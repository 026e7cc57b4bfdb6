import datetime
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefill_router.config import PLACES, Parameters, from_namespace, validate
from prefill_router.errors import InputError

NAMES = list(Parameters.model_fields)


@pytest.mark.parametrize("name", NAMES)
def test_a_misspelled_name_is_refused_with_a_suggestion(name):
    with pytest.raises(InputError) as caught:
        validate({f"{name}x": 1}, "mine.yaml")
    assert str(caught.value) == (f"mine.yaml: {name}x: no such parameter. Did you mean '{name}'?")


def test_a_name_like_no_other_gets_all_known_ones():
    with pytest.raises(InputError, match=r"zzz: no such parameter. Known: .*dtype.*untrained"):
        validate({"zzz": 1})


BAD = [
    *[(name, value) for name in NAMES for value in (None, {"a": 1}, 1j, datetime.date(2026, 1, 5))],
    *[(name, "") for name in ("labels", "encoder", "embedding", "poolings", "dimensions")],
    *[(name, 3) for name in ("labels", "encoder", "dtype", "targets", "poolings", "criterion")],
    *[(name, ["a", "a"]) for name in ("targets", "encoders")],
    *[(name, "[a, [b]]") for name in ("targets", "encoders", "poolings", "dimensions", "layers")],
    *[(name, "[a, b") for name in ("targets", "encoders", "poolings", "dimensions", "layers")],
    *[(name, -1) for name in ("seed", "n_queries", "max_tokens", "layers", "dimensions", "keep")],
    *[(name, 1.5) for name in ("seed", "n_queries", "outer_folds", "n_seeds", "dimensions")],
    *[(name, "many") for name in ("seed", "n_queries", "dimensions", "layers", "fresh_labels")],
    *[(name, 0) for name in ("outer_folds", "n_seeds", "keep", "dimensions")],
    ("inner_folds", 1),
    ("n_resamples", 99),
    ("seed", 2**32),
    ("layers", []),
    ("full", [1, 7]),
    ("layers", True),
    ("poolings", ["max"]),
    ("poolings", "last, last"),
    ("dimensions", "8, 8"),
    ("criterion", "auroc"),
    ("truncation", "both"),
    ("dtype", "float64"),
    ("engine", "dask"),
    ("keep", 11),
]


@pytest.mark.parametrize(("name", "value"), BAD, ids=str)
def test_a_bad_value_is_refused_by_name_and_shown(name, value):
    with pytest.raises(InputError, match=rf"^here: {name}(\[\d+\])?: .*given: ") as caught:
        validate({name: value}, "here")
    assert "\n" not in str(caught.value)


def test_more_cannot_be_kept_than_are_trained():
    assert validate({"n_seeds": 3, "keep": 3}).keep == 3
    with pytest.raises(InputError, match=r"keep: .*n_seeds \(3\)"):
        validate({"n_seeds": 3})


def test_every_complaint_is_made_at_once():
    with pytest.raises(InputError) as caught:
        validate({"seed": -1, "dtpye": "float32", "keep": 0})
    assert [part in str(caught.value) for part in ("seed: ", "dtpye: ", "keep: ")] == [True] * 3


def test_keys_that_are_no_names_are_refused():
    with pytest.raises(InputError, match=r"1: Keys should be strings"):
        validate({1: "a"})


@pytest.mark.parametrize(
    ("name", "given", "wanted"),
    [
        ("dimensions", "[2, 3]", [2, 3]),
        ("dimensions", "2, 3", [2, 3]),
        ("dimensions", 2, [2]),
        ("layers", "[0, 4]", [0, 4]),
        ("layers", "4", [4]),
        ("layers", "all", "all"),
        ("layers", "upper", "upper"),
        ("targets", "a, b", ["a", "b"]),
        ("targets", "['a, b', c]", ["a, b", "c"]),
        ("targets", "", []),
        ("targets", "[]", []),
        ("encoders", "zoo/reader-s", ["zoo/reader-s"]),
        ("poolings", "mean,", ["mean"]),
        ("fresh_labels", "true", True),
        ("n_queries", "300", 300),
    ],
)
def test_values_may_be_text(name, given, wanted):
    assert getattr(validate({name: given}), name) == wanted


@given(st.lists(st.integers(1, 999), min_size=1, unique=True))
def test_a_list_and_its_text_are_the_same(dimensions):
    same = {validate({"dimensions": x}).fingerprint for x in (dimensions, str(dimensions))}
    assert same == {validate({"dimensions": ",".join(map(str, dimensions))}).fingerprint}


def test_the_cell_executes_to_exactly_the_defaults():
    namespace = {}
    exec(Parameters.cell(), namespace)
    values = {name: namespace[name] for name in NAMES}
    assert values == Parameters().model_dump()
    assert list(namespace["__annotations__"]) == NAMES
    for name, kind in namespace["__annotations__"].items():
        assert isinstance(values[name], kind)


def test_a_namespace_gives_back_the_parameters_set_in_it():
    """As in a kernel: the cell, what papermill injects after it, IPython's names and imports."""
    namespace = {"In": [""], "Out": {}, "_": 3, "_i1": "x", "_dh": ["."], "exit": exit}
    exec(Parameters.cell(), namespace)
    exec("encoder = 'zoo/reader-s'\ndimensions = '[2, 3]'", namespace)
    exec("import numpy as np\nfrom pathlib import Path", namespace)
    assert isinstance(namespace["np"], ModuleType)
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
        "n_resamples": 100, "full": [7], "fresh_labels": True, "dtype": "float16", "seed": 1,
    }  # fmt: skip
    assert {*other, *PLACES} == set(NAMES)
    found = {name: validate({name: value}).fingerprint for name, value in other.items()}
    assert len({base.fingerprint, *found.values()}) == len(other) + 1
    places = {"device": "cuda", "engine": "ray", "address": "a:1", "run_dir": "runs/x"}
    assert set(places) == PLACES
    assert validate(places).fingerprint == base.fingerprint


def test_parameters_cannot_be_changed_afterwards():
    with pytest.raises(ValueError, match="frozen"):
        Parameters().seed = 1


def test_numpy_numbers_count_as_numbers():
    assert validate({"seed": np.int64(3)}).seed == 3
