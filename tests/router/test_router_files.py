"""A router's directory as a stranger might send it: nothing runs, and what is wrong is said."""

import hashlib
import json
import os
import pickle
import shutil
import struct
import time
from functools import reduce
from operator import getitem
from pathlib import Path

import numpy as np
import pytest
import tiny_models
from safetensors.numpy import load_file, save

from prefill_router.errors import InputError
from prefill_router.router import Router
from prefill_router.router import files as router_files
from prefill_router.router.files import CARD, CONFIG, TENSORS


class Trap:
    """Leaves a file where it is unpickled."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return (os.mkdir, (self.mark,))


def rewrite(directory, change=None, tensors=None):
    """Change the config, or replace the tensors by others whose hash is right."""
    config = json.loads((directory / CONFIG).read_text())
    if tensors is not None:
        (directory / TENSORS).write_bytes(tensors)
        config["tensors"] = hashlib.sha256(tensors).hexdigest()
    if change:
        change(config)
    (directory / CONFIG).write_text(json.dumps(config))


def refused(directory, match):
    with pytest.raises(InputError, match=match) as caught:
        Router.from_pretrained(directory)
    assert len(str(caught.value)) < 2000


def test_pickles_are_never_opened(saved, tmp_path):
    mark = tmp_path / "pickle was run"
    trap = pickle.dumps(Trap(mark))
    for name in ("model.pkl", "pytorch_model.bin", "tokenizer-0.json", CARD):
        (saved / name).write_bytes(trap)
    Router.from_pretrained(saved)  # what is not part of a router is not looked at
    rewrite(saved, tensors=trap)
    refused(saved, "router.safetensors is no safetensors file")
    (saved / TENSORS).unlink()
    refused(saved, "no such file. .Pickled files can run code")
    (saved / CONFIG).write_bytes(trap)
    refused(saved, "router.json describes no router")
    assert not mark.exists()
    pickle.loads(trap)  # noqa: S301 - the trap works
    assert mark.exists()


@pytest.mark.parametrize("name", [CONFIG, TENSORS])
def test_what_is_no_plain_file_of_the_directory_is_not_opened(saved, tmp_path, name):
    outside, file = tmp_path / "outside", saved / name
    shutil.move(file, outside)
    refused(saved, f"{name}: no such file")
    file.symlink_to(outside)
    refused(saved, f"{name} is a link out of its directory")
    file.unlink()
    file.symlink_to(file)
    refused(saved, f"{name}: no such file")
    file.unlink()
    os.mkfifo(file)  # opening it would wait for ever
    refused(saved, "no plain file")
    file.unlink()
    file.mkdir()
    refused(saved, "no plain file")
    file.rmdir()
    shutil.copy(outside, saved / "other")
    file.symlink_to("other")
    Router.from_pretrained(saved)  # a link within it leads nowhere else


def test_links_of_the_hub_cache_are_followed_and_no_others(saved, tmp_path):
    """snapshots/REVISION/FILE is a link to blobs/HASH there."""
    snapshot, blobs = tmp_path / "cache/snapshots/abc", tmp_path / "cache/blobs"
    shutil.copytree(saved, blobs)
    snapshot.mkdir(parents=True)
    for name in (CONFIG, TENSORS):
        (snapshot / name).symlink_to(f"../../blobs/{name}")
    Router.from_pretrained(snapshot)
    shutil.copytree(saved, blobs / "refs")
    (snapshot / CONFIG).unlink()
    (snapshot / CONFIG).symlink_to(f"../../blobs/refs/{CONFIG}")
    refused(snapshot, "link out of its directory")


@pytest.mark.parametrize("name", [CONFIG, TENSORS])
def test_giant_files_are_refused_before_they_are_read(saved, name, monkeypatch):
    with (saved / name).open("wb") as stream:
        stream.truncate(3 * 2**30)  # takes no room on disk
    opened = Path.open
    guard = lambda p, *a, **k: pytest.fail("opened") if p.name == name else opened(p, *a, **k)  # noqa: E731
    monkeypatch.setattr(Path, "open", guard)
    refused(saved, "3,221,225,472 bytes and is not read")


def test_json_bombs_do_nothing(saved):
    nested, digits = b'{"format":' * 50_000, b'{"format": ' + b"9" * 100_000 + b"}"
    for bomb in (nested, digits, b'{"tau": 1e999}', b"\xff\xfe\x00"):
        (saved / CONFIG).write_bytes(bomb)
        refused(saved, "router.json describes no router")


ROOM = router_files.LIMITS[CONFIG] - 2**18  # beside what a router says of itself


def test_a_file_full_of_faults_is_refused_quickly(fitted, saved):
    names = dict.fromkeys(map("{:06}".format, range(ROOM // 16)), -1)
    for change in (names, {"metrics": [0] * (ROOM // 4)}, {"prices": {"input": names}}):
        rewrite(saved, lambda config, change=change: config.update(change))
        assert (saved / CONFIG).stat().st_size < router_files.LIMITS[CONFIG]
        start = time.process_time()
        refused(saved, "000000: Extra inputs|metrics|prices")
        assert time.process_time() - start < 2
        fitted[0].save_pretrained(saved)


def test_a_tokenizer_neither_cuts_nor_pads_what_it_counts():
    tokenizer = tiny_models.byte_tokenizer().backend_tokenizer
    whole = len(tokenizer.encode("abcdef").ids)
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=50)
    content = tokenizer.to_str().encode()
    counted = router_files.parse_tokenizer(content, "tokenizer.json")
    assert len(counted.encode("abcdef").ids) == whole


def set_to(*path_and_value):
    *path, last, value = path_and_value
    return lambda config: reduce(getitem, path, config).__setitem__(last, value)


ADDED = {
    "name": "new", "intercept": 0.0, "weights": [1.0, 0.0, 0.0], "accuracy": 0.5, "n": 20,
    "certified": False, "metrics": [],
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (set_to("format", 3), "not of format 4.*prefill-router fit LOOP.yaml"),
        (set_to("extra", 1), "extra"),
        (set_to("targets", ["early", "early", "late"]), "named twice"),
        (set_to("tau", "0.1"), "valid number"),
        (set_to("places", 0, "components", 10**30), "places.0.components"),
        (set_to("head", "forest"), "head"),
        (set_to("calibration", 0, "eval"), "calibration.0"),
        (set_to("encoder", "weights", "../../etc/passwd"), "is not the encoder"),
        (set_to("encoder", "name", "../../secrets"), "no such file or directory"),
        (set_to("encoder", "name", "/etc"), "no config.json in"),
        (set_to("encoder", "name", "zoo/../../secrets"), "no model"),
        (set_to("guarantee", "best_single", "nobody"), "best_single"),
        (lambda config: config["prices"]["input"].pop("early"), "what is unknown is not 0"),
        (set_to("prices", "input", "nobody", 1.0), "a target needs both prices"),
        (set_to("tokenizers", "nobody", "0" * 64), "a tokenizer is of no target"),
        (set_to("prices", "output", "early", -1.0), "prices.output.early"),
        (set_to("metrics", [{"metric": "x", "y": 1}]), "no column 'y'"),
        (set_to("added", [ADDED]), "validation.p is float64|lengths.bounds is"),
        (set_to("added", [ADDED | {"weights": [1.0]}]), "weights need one entry per target"),
        (set_to("tensors", "0" * 64), "not the file that was saved"),
    ],
)
def test_configs_that_say_something_else_are_refused(saved, change, match):
    rewrite(saved, change)
    refused(saved, match)


@pytest.mark.parametrize(
    ("name", "make", "match"),
    [
        ("centre", lambda t: t.astype(np.float64), "centre is float64"),
        ("head.weight.0", lambda t: t[:, :-1], r"head.weight.0 is .*it must be float32 \(2, "),
        ("projection", lambda t: np.full_like(t, np.nan), "no finite numbers"),
        ("validation.p", lambda t: t[:0], "validation.p"),
        ("lengths.slopes", lambda t: None, "lacks tensor 'lengths.slopes'"),
        ("more", lambda t: np.zeros(3), "unexpected tensor 'more'"),
        ("validation.correct", lambda t: t[:-1], "validation.p is float64|validation.correct is"),
    ],
)
def test_tensors_of_other_types_shapes_and_values_are_refused(saved, name, make, match):
    tensors = load_file(saved / TENSORS)
    tensors[name] = make(tensors.get(name))
    rewrite(saved, tensors=save({k: v for k, v in tensors.items() if v is not None}))
    refused(saved, match)


def test_tensors_that_are_none_or_altered_are_noticed(saved):
    content = bytearray((saved / TENSORS).read_bytes())
    content[-1] ^= 1
    (saved / TENSORS).write_bytes(content)
    refused(saved, "its hash differs")
    for shape, end in (([2**62, 2**62], 8), ([10**12], 4 * 10**12)):
        header = {"centre": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}
        text = json.dumps(header).encode()
        rewrite(saved, tensors=struct.pack("<Q", len(text)) + text + bytes(8))
        refused(saved, "no safetensors file|unexpected|lacks")
