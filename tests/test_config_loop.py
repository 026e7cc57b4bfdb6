import pytest
import yaml

from prefill_router.answers.generation import Decoding
from prefill_router.answers.targets import Endpoint
from prefill_router.config import Loop, price_table, read_loop, target_names
from prefill_router.errors import InputError

REMOTE = {"name": "a", "base_url": "https://host/v1", "model": "m"}


def write(tmp_path, **values):
    path = tmp_path / "loop.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_local_models_and_endpoints_stand_side_by_side(tmp_path):
    path = write(tmp_path, targets=["zoo/gpt2-a", REMOTE], seed=3)
    loop = read_loop(path, {"seed": 4, "exclude": "a, b", "layers": "3,5"})
    assert target_names(loop.targets) == ["zoo/gpt2-a", "a"]
    assert isinstance(loop.targets[1], Endpoint)
    assert (loop.seed, loop.exclude, loop.layers) == (4, ["a", "b"], [3, 5])
    assert read_loop(path, {"targets": "x, y"}).targets == ["x", "y"]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"quries": "x"}, "quries: no such parameter. Did you mean 'queries'?"),
        ({"targets": [{"name": "a"}]}, "targets[0].base_url: Field required"),
        ({"targets": ["x", REMOTE | {"timeout": -1}]}, "targets[1].timeout: "),
        ({"targets": [REMOTE, "a"]}, "two have the same name"),
        ({"targets": [1]}, "targets[0]: "),
        ({"targets": [None]}, "targets[0]: "),
        ({"targets": [["a"]]}, "targets[0]: "),
        ({"targets": [{"name": "a", "price": {"input": False, "output": 1}}]}, ".price.input: "),
        ({"targets": [REMOTE | {"price": {"input": 1, "output": float("inf")}}]}, ".price.output"),
        ({"tau": 2}, "tau: "),
        ({"tau": True}, "tau: "),
        ({"cap_usd": True}, "cap_usd: "),
        ({"temperature": float("inf")}, "temperature: "),
        ({"policy": "luck"}, "policy: "),
        ({"max_new_tokens": 0}, "max_new_tokens: "),
        ({"cap_usd": -1}, "cap_usd: "),
    ],
)
def test_what_cannot_be_is_named(tmp_path, values, said):
    with pytest.raises(InputError) as error:
        read_loop(write(tmp_path, **values))
    assert said in str(error.value)
    assert "loop.yaml" in str(error.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"key": "sk-4711secret"},
        {"base_url": "https://me:sk-4711secret@host/v1"},
        {"base_url": "https://host/v1?api_key=sk-4711secret"},
        {"api_key": "sk-4711secret"},
        {"extra": "Authorization: Bearer sk-4711secret"},
        {"system": ["sk-4711secret"]},
    ],
)
def test_a_key_written_into_the_file_is_refused_and_not_repeated(tmp_path, fields):
    with pytest.raises(InputError) as error:
        read_loop(write(tmp_path, targets=[REMOTE | fields]))
    assert "4711secret" not in str(error.value)


def test_a_default_written_out_asks_for_nothing_anew(tmp_path):
    def keys(loop):
        decoding = Decoding(loop.max_new_tokens, loop.temperature, loop.seed)
        return [target.answer_key("q", decoding) for target in loop.targets]

    plain = read_loop(write(tmp_path, targets=[REMOTE]))
    written = {name: getattr(plain, name) for name in ("max_new_tokens", "temperature", "seed")}
    for temperature in (0, 0.0):
        fields = plain.targets[0].model_dump()
        loop = read_loop(
            write(tmp_path, targets=[fields], **written | {"temperature": temperature})
        )
        assert keys(loop) == keys(plain)


def test_prices_are_stated_once(tmp_path):
    (tmp_path / "p.csv").write_text("model,usd_per_m_input,usd_per_m_output\nb,1,2\n")
    priced = REMOTE | {"price": {"input": 3, "output": 4}}
    loop = read_loop(write(tmp_path, targets=[priced], prices=str(tmp_path / "p.csv")))
    table = price_table(loop.targets, loop.prices)
    assert (table.input, table.output) == ({"b": 1, "a": 3}, {"b": 2, "a": 4})
    assert price_table([], "") is None
    assert "zoo/gpt2-a" in price_table([], "zoo").input
    twice = priced | {"name": "b"}
    with pytest.raises(InputError, match="price of its own"):
        price_table(read_loop(write(tmp_path, targets=[twice])).targets, str(tmp_path / "p.csv"))


def test_every_field_is_explained():
    names = [name for name, _, meaning in Loop.explained() if meaning]
    wanted = [*Loop.model_fields, *(f"targets: {name}" for name in Endpoint.model_fields)]
    assert names == wanted


def test_a_local_target_may_state_its_price(tmp_path):
    path = tmp_path / "loop.yaml"
    path.write_text(
        "targets: [zoo/gpt2-a, {name: models/mine, price: {input: 1, output: 0}}, "
        "{name: far, base_url: 'https://host/v1', model: m, price: {input: 2, output: 3}}]"
    )
    loop = read_loop(path)
    assert target_names(loop.targets) == ["zoo/gpt2-a", "models/mine", "far"]
    assert price_table(loop.targets, loop.prices).input == {"models/mine": 1, "far": 2}
    path.write_text("targets: [{name: mine, prize: {input: 1, output: 0}}]")
    with pytest.raises(InputError, match="base_url"):
        read_loop(path)
    path.write_text("targets: [{name: mine, price: {input: -1, output: 0}}]")
    with pytest.raises(InputError, match=r"price\.input"):
        read_loop(path)
