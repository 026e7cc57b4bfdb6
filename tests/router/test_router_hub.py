"""A router on the hub, which a server on loopback stands in for."""

import hub_standin
import pytest

from prefill_router.errors import InputError
from prefill_router.router import Router
from prefill_router.router.files import CONFIG, LIMITS, TENSORS, find


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    with hub_standin.serve() as (address, hub):
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        yield hub


@pytest.fixture
def shared(hub, saved):
    """The hub, with the files of a saved router."""
    hub.files = {path.name: path.read_bytes() for path in saved.iterdir()}
    return hub


def fetched(hub):
    """The names of the files whose content was asked for."""
    return {
        path.rpartition("/")[2]
        for method, path, _ in hub.requests
        if method == "GET" and "/resolve/" in path
    }


def test_a_router_goes_to_the_hub_and_comes_back(fitted, hub, tmp_path):
    router = fitted[0]
    url = router.push_to_hub("someone/router", token="hf_secret", private=True)
    assert url.endswith(hub_standin.COMMIT)
    assert {"README.md", "router.json", "router.safetensors"} <= set(hub.files)
    writing = {token for method, _, token in hub.requests if method == "POST"}
    assert writing == {"Bearer hf_secret"}
    again = Router.from_pretrained("someone/router", revision="main")
    assert again.fingerprint == router.fingerprint
    with pytest.raises(InputError, match="no router 'someone/else'"):
        Router.from_pretrained("someone/else")
    links = list((tmp_path / "cache").rglob("snapshots/*/router.json"))
    assert len(links) == 1


def test_its_own_files_alone_are_fetched_and_found_without_a_connection(
    fitted, shared, monkeypatch
):
    shared.files |= dict.fromkeys(("model.safetensors", "run.py"), b"x")
    for offline in (False, True):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
        assert Router.from_pretrained("someone/router").fingerprint == fitted[0].fingerprint
        assert fetched(shared) == {CONFIG, TENSORS}


@pytest.mark.parametrize(
    ("name", "size", "said"),
    [
        (CONFIG, LIMITS[CONFIG] + 1, "2,097,153 bytes"),
        (TENSORS, None, "an unknown number of bytes"),
        ("tokenizer-1.json", 2**30, "1,073,741,824 bytes"),
    ],
)
def test_a_giant_file_is_refused_before_it_is_fetched(shared, name, size, said):
    shared.files["tokenizer-1.json"] = b"{}"
    shared.sizes[name] = size
    with pytest.raises(InputError, match=f"{name} of someone/router has {said} and is not read"):
        Router.from_pretrained("someone/router")
    assert fetched(shared) == set()


def test_a_repository_that_lacks_a_file_is_no_router(shared):
    del shared.files[TENSORS]
    shared.files["router.pkl"] = b"x"
    with pytest.raises(InputError, match=f"is no router: it has no {TENSORS}"):
        Router.from_pretrained("someone/router")
    assert fetched(shared) == set()


def test_a_name_that_is_nothing_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    file = tmp_path / "file"
    file.write_text("x")
    for name in ("./nothing", "/nothing", "a/b/c", "~nosuchuser/x", str(file), "a/b", "a" * 1000):
        asked = name in ("a/b", "a" * 1000)
        said = "or the hub cannot be reached" if asked else "no such directory; give that of"
        with pytest.raises(InputError, match=said):
            find(name)
