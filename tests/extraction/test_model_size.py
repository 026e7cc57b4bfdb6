import shutil

import numpy as np
import tiny_models
from safetensors.numpy import load_file, save_file

from prefill_router.extraction.model_size import INDEX, n_parameters
from prefill_router.extraction.models import load_target
from prefill_router.extraction.sources import resolve
from prefill_router.storage import write_json


def test_parameters_are_those_of_the_loaded_model(tmp_path):
    tiny_models.save(tmp_path / "model")
    source = resolve(str(tmp_path / "model"))
    model = load_target(source)[0]
    assert n_parameters(source) == sum(p.numel() for p in model.parameters())


def test_parts_are_counted_by_their_index_alone(tmp_path):
    tiny_models.save(tmp_path / "model")
    whole = n_parameters(resolve(str(tmp_path / "model")))
    shutil.copytree(tmp_path / "model", tmp_path / "parts")
    weights = load_file(tmp_path / "parts" / "model.safetensors")
    names = sorted(weights)
    files = {"one.safetensors": names[:3], "two.safetensors": names[3:]}
    for file, keys in files.items():
        save_file({k: weights[k] for k in keys}, tmp_path / "parts" / file)
    save_file({"other": np.zeros(7)}, tmp_path / "parts" / "copy.safetensors")
    write_json(
        tmp_path / "parts" / INDEX, {"weight_map": {k: f for f, ks in files.items() for k in ks}}
    )
    assert n_parameters(resolve(str(tmp_path / "parts"))) == whole
