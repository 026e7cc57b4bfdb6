import re
import subprocess
import sys

import prefill_router
from prefill_router.config import project_root

PAGE = project_root() / "book/api.md"


def test_importing_the_package_loads_no_stage():
    code = "import sys, prefill_router; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = ran.stdout.split()
    assert not {"torch", "numpy", "pandas", "sklearn"} & set(loaded)


def test_every_public_name_is_there():
    for name in prefill_router.__all__:
        assert getattr(prefill_router, name).__doc__, name
    assert set(prefill_router.__all__) <= set(dir(prefill_router))
    assert not hasattr(prefill_router, "no_such_name")


def test_the_reference_lists_the_public_names_in_order():
    page = PAGE.read_text()
    listed = re.findall(r"auto\w+:: prefill_router\.(?:\w+\.)*(\w+)", page)
    assert listed == prefill_router.__all__


def test_the_examples_of_the_reference_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = PAGE.read_text()
    examples = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert {*prefill_router.__all__} <= {*re.findall(r"\w+", " ".join(examples))}
    names = {}
    for example in examples:
        exec(example, names)
    assert names["p"].shape == names["logistic"].shape
    gap = names["one"](names["found"], metric="gap closed", router="trunk")
    assert gap["lower"] <= gap["estimate"] <= gap["upper"]
    p, states = names["fitted"].predictor.predict_proba(names["states"]), names["states"]
    for router in (names["router"], names["loaded"]):
        assert (router.predict_proba(states) == p).all()
