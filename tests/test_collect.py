import numpy as np
import pandas as pd
import pytest
import tiny_models
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from prefill_router import collect as module
from prefill_router.collect import Decoding, collect, collect_labels, exact_match, generate
from prefill_router.errors import InputError
from prefill_router.models import load_target, resolve

QUESTIONS = tiny_models.questions(20)
SHORT = Decoding(max_new_tokens=6)


def causal(name, seed=0):
    return tiny_models.model(name, AutoModelForCausalLM, seed)


def greedy(model, ids, ends, max_new_tokens):
    """Continue one prompt by a loop over argmax: no batch, no padding, no cache."""
    tokens = list(ids)
    for _ in range(max_new_tokens):
        with torch.no_grad():
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
        if tokens[-1] in ends:
            break
    return tokens[len(ids) :]


@pytest.mark.parametrize("template", [None, tiny_models.TEMPLATE], ids=["bare", "chat"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["qwen3", "llama", "gpt2", "gpt_neox"])
def test_batched_answers_are_those_of_a_loop_over_one_prompt(name, side, template):
    model, tokenizer = causal(name), tiny_models.tokenizer(side, template)
    # stop at several tokens, so that answers end at different lengths
    ends = [1, 7, 9, 12, 20]
    model.generation_config.eos_token_id = ends
    framed = "<user> {} <assistant>" if template else "{}"
    want = [
        greedy(model, tokenizer.convert_tokens_to_ids(framed.format(text).split()), ends, 6)
        for text in QUESTIONS
    ]
    assert len({len(tokens) for tokens in want}) > 1
    for batch_size in (1, 7, 20):
        answers, n_tokens = generate(model, tokenizer, QUESTIONS, SHORT, batch_size)
        assert n_tokens.tolist() == [len(tokens) for tokens in want]
        assert answers == [tokenizer.decode(ids, skip_special_tokens=True) for ids in want]


def test_padding_with_the_end_token_is_hidden_from_the_model():
    """Without a mask transformers guesses one, and guesses that such padding is text."""
    model = causal("gpt2")
    tokenizer = tiny_models.tokenizer(pad=False)
    alone = [generate(model, tokenizer, [question], SHORT) for question in QUESTIONS]
    answers, n_tokens = generate(model, tokenizer, QUESTIONS, SHORT)
    assert answers == [answer for [answer], _ in alone]
    assert n_tokens.tolist() == [n for _, [n] in alone]


def test_the_models_own_generation_settings_do_not_bend_greedy_decoding():
    model, tokenizer = causal("qwen3"), tiny_models.tokenizer()
    plain = generate(model, tokenizer, QUESTIONS, SHORT)[0]
    own = GenerationConfig(
        eos_token_id=1, do_sample=True, temperature=3.0, repetition_penalty=5.0, num_beams=3,
        no_repeat_ngram_size=1, min_new_tokens=6,
    )  # fmt: skip
    model.generation_config = own
    assert generate(model, tokenizer, QUESTIONS, SHORT)[0] == plain
    assert model.generation_config is own


def test_sampling_follows_the_models_distribution_and_the_seed():
    model, tokenizer = causal("qwen3"), tiny_models.tokenizer()
    decoding = Decoding(max_new_tokens=1, temperature=2.0, seed=3)
    before = torch.random.get_rng_state()
    answers, _ = generate(model, tokenizer, ["w1 w2"] * 4000, decoding, 4000)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert generate(model, tokenizer, ["w1 w2"] * 4000, decoding, 4000)[0] == answers
    ids = torch.tensor([tokenizer.convert_tokens_to_ids(["w1", "w2"])])
    with torch.no_grad():
        p = (model(ids).logits[0, -1] / 2.0).softmax(-1).numpy()
    for word in ("w0", "w5", "w19"):
        share = np.mean([answer == word for answer in answers])
        expected = p[tokenizer.convert_tokens_to_ids(word)]
        assert abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / 4000) + 1e-9


def test_a_model_that_cannot_end_and_a_prompt_that_leaves_no_room():
    model, tokenizer = causal("gpt2"), tiny_models.tokenizer()
    with pytest.raises(InputError, match="longer than 2 tokens"):
        generate(model, tokenizer, ["w1 w2 w3"], Decoding(max_new_tokens=28))
    model.generation_config.eos_token_id = None
    tokenizer.eos_token = None
    with pytest.raises(InputError, match="eos_token_id"):
        generate(model, tokenizer, ["w1"], SHORT)


@pytest.mark.parametrize("setting", [{"max_new_tokens": 0}, {"temperature": -1.0}])
def test_decoding_is_checked(setting):
    with pytest.raises(InputError, match=next(iter(setting))):
        Decoding(**setting)


@pytest.mark.parametrize(
    ("answer", "reference", "right"),
    [
        ("4 2", "4 2", True),
        (" 4  2.\n", "4 2", True),
        ("Paris", "paris", True),
        ("cafe\u0301", "café", True),
        ("42", "4 2", False),
        ("4 2 0", "4 2", False),
        ("", "4", False),
        ("3 + 4 answer : 7", "7", True),
        ("so the Answer: 7", "7", True),
        ("answer : 7 answer : 8", "7", False),
        ("7 answer : 8", "7", False),
        ("-3", "3", False),
    ],
)
def test_exact_match(answer, reference, right):
    assert exact_match(answer, reference) is right


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    root = tmp_path_factory.mktemp("targets")
    return {
        "a": str(tiny_models.save(root / "a", "qwen3")),
        "b": str(tiny_models.save(root / "b", "gpt2", template=tiny_models.TEMPLATE)),
    }


@pytest.fixture
def queries():
    return pd.DataFrame(
        {
            "query_id": [f"q{i}" for i in range(len(QUESTIONS))],
            "question": QUESTIONS,
            "benchmark": ["odd", "even"] * 10,
            "reference": "w1",
            "split": ["train", "test"] * 10,
            "note": "not passed on",
        },
        index=range(100, 120),
    )


@pytest.fixture
def asked(monkeypatch):
    """Record how many questions each call to `generate` gets."""
    seen = []

    def record(model, tokenizer, questions, *arguments):
        seen.append(len(questions))
        return generate(model, tokenizer, questions, *arguments)

    monkeypatch.setattr(module, "generate", record)
    return seen


def test_collect_grades_each_answer_against_its_own_reference(saved):
    source = resolve(saved["a"])
    answers, n_tokens = generate(*load_target(source), QUESTIONS, SHORT)
    references = [answer if i % 3 else "else" for i, answer in enumerate(answers)]
    for chunk_size in (3, 2048):
        table = collect(source, QUESTIONS, references, decoding=SHORT, chunk_size=chunk_size)
        assert table["answer"].tolist() == answers
        assert table["output_tokens"].tolist() == n_tokens.tolist()
        assert table["is_correct"].tolist() == [int(i % 3 > 0) for i in range(20)]
    lenient = collect(source, QUESTIONS, references, lambda answer, reference: True, SHORT)
    assert lenient["is_correct"].all()
    with pytest.raises(InputError, match="20 questions, but 1 references"):
        collect(source, QUESTIONS, ["w1"])
    with pytest.raises(InputError, match="There is no question"):
        collect(source, [], [])


def test_sampled_chunks_do_not_share_a_random_stream(saved):
    decoding = Decoding(max_new_tokens=6, temperature=5.0)
    questions = ["w1 w2"] * 8 + ["w1 w2 w3"]
    table = collect(
        resolve(saved["a"]), questions[::-1], ["w1"] * 9, decoding=decoding, chunk_size=5
    )
    again = collect(
        resolve(saved["a"]), questions[::-1], ["w1"] * 9, decoding=decoding, chunk_size=5
    )
    pd.testing.assert_frame_equal(table, again)
    assert table["answer"].tolist()[1:5] != table["answer"].tolist()[5:]


def test_the_label_table_holds_each_target_and_query_once(saved, queries, tmp_path):
    out = tmp_path / "labels.parquet"
    targets = [saved["b"], saved["a"]]
    labels = collect_labels(targets, queries, out, decoding=SHORT)
    pd.testing.assert_frame_equal(pd.read_parquet(out), labels, check_dtype=False)
    assert list(labels) == [
        "query_id", "question", "benchmark", "model", "is_correct", "output_tokens", "split",
    ]  # fmt: skip
    assert labels["model"].drop_duplicates().tolist() == targets
    for target, rows in labels.groupby("model"):
        assert rows["query_id"].tolist() == queries["query_id"].tolist()
        assert rows["split"].tolist() == queries["split"].tolist()
        alone = collect(resolve(target), QUESTIONS, ["w1"] * 20, decoding=SHORT)
        assert rows["output_tokens"].tolist() == alone["output_tokens"].tolist()
        assert rows["is_correct"].tolist() == alone["is_correct"].tolist()


def test_an_interrupted_run_goes_on_where_it_stopped(saved, queries, tmp_path, asked, monkeypatch):
    whole = collect_labels(
        list(saved.values()), queries, tmp_path / "whole.csv", decoding=SHORT, chunk_size=6
    )
    asked.clear()
    recorder, out = module.generate, tmp_path / "labels.csv"

    def interrupted(*arguments):
        if len(asked) == 5:  # one chunk into the second target
            raise KeyboardInterrupt
        return recorder(*arguments)

    monkeypatch.setattr(module, "generate", interrupted)
    settings = {"decoding": SHORT, "chunk_size": 6}
    with pytest.raises(KeyboardInterrupt):
        collect_labels(list(saved.values()), queries, out, **settings)
    assert not out.exists()
    monkeypatch.setattr(module, "generate", recorder)
    asked.clear()
    resumed = collect_labels(list(saved.values()), queries, out, **settings)
    assert asked == [6, 6, 2]
    pd.testing.assert_frame_equal(resumed, whole)
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_finished_chunks_serve_only_the_run_they_were_made_by(saved, queries, tmp_path, asked):
    out, target = tmp_path / "labels.csv.gz", [saved["a"]]
    collect_labels(target, queries, out, decoding=SHORT)
    first = out.read_bytes()
    collect_labels(target, queries, out, decoding=SHORT)
    assert asked == [20]
    assert out.read_bytes() == first
    collect_labels(target, queries, out, lambda *_: True, SHORT)
    assert asked == [20]  # graded anew, not asked anew
    assert pd.read_csv(out)["is_correct"].all()
    collect_labels(target, queries, out, decoding=Decoding(max_new_tokens=5))
    collect_labels(target, queries.iloc[1:], out, decoding=SHORT)
    collect_labels([saved["b"]], queries, out, decoding=SHORT)
    assert asked == [20, 20, 19, 20]


def test_requests_that_cannot_be_met_are_refused_before_any_model_is_asked(
    saved, queries, tmp_path, asked
):
    out, target = tmp_path / "labels.csv", saved["a"]
    for targets, table, path, message in [
        ([target], queries.drop(columns="reference"), out, "lack the column reference"),
        ([target], pd.concat([queries, queries.iloc[:1]]), out, "'q0' occurs more than once"),
        ([target, target], queries, out, "different models"),
        ([], queries, out, "different models"),
        ([target], queries, tmp_path / "labels.xlsx", "must end in"),
        ([target, "./nowhere"], queries, out, "no such directory"),
    ]:
        with pytest.raises(InputError, match=message):
            collect_labels(targets, table, path)
    assert asked == []
