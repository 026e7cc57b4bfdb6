"""Extraction against the obvious way, on a random-weight encoder of Qwen3-0.6B's shape.

The obvious way: a causal language model with its head, batches of four in arrival order,
``output_hidden_states``, states pooled row by row in Python. Both ways read the same queries, in
turn, in this one process; their states must agree. The floor is a bare forward pass of the blocks
that are needed, on as many tokens in batches without any padding.

    python benchmarks/extraction.py --queries-from labels/mmlu_pro.parquet

The encoder and its tokenizer are made here, so that nothing is fetched: random weights, and a
byte-level BPE of 16,000 tokens trained on the queries themselves. Without ``--queries-from``,
queries are random words, their number log-normal (median 110, sigma 0.65, from 15 to 900), which is
about how long MMLU-Pro's are.

What is printed ends with the cost of ten million such queries, on this machine and on a GPU that is
only assumed (``--gpu-tflops``, ``--gpu-share``, ``--price-per-hour``), and, as its last line, one
JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen3Config

from prefill_router.extraction import extract
from prefill_router.extraction.batches import plan_batches
from prefill_router.extraction.models import DTYPES
from prefill_router.extraction.prefill import Reader

SHAPE = {
    "vocab_size": 151_936,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40_960,
    "tie_word_embeddings": True,
}
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
POOLINGS = ["last", "mean"]


def read_queries(path: str | None, n: int, seed: int) -> tuple[list[str], list[str]]:
    """Return all queries, and n of them in random order."""
    rng = np.random.default_rng(seed)
    if path:
        every = pd.read_csv(path, usecols=["question"])["question"].drop_duplicates().tolist()
    else:
        sizes = np.clip(rng.lognormal(np.log(110), 0.65, 2000), 15, 900).astype(int)
        words = ["".join(rng.choice(list("etaoinshrdlu"), rng.integers(2, 9))) for _ in range(5000)]
        every = [" ".join(rng.choice(words, size)) for size in sizes]
    return every, [every[i] for i in rng.permutation(len(every))[:n]]


def make_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE with a chat template."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=16_000, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=SPECIAL[0], eos_token=SPECIAL[2], chat_template=TEMPLATE
    )


@torch.inference_mode()
def obvious(model, tokenizer, queries: list[str]) -> np.ndarray:
    """Read queries the obvious way; return states (L + 1, 2, N, D)."""
    turns = [[{"role": "user", "content": query}] for query in queries]
    prompts = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    result = []
    for start in range(0, len(prompts), 4):
        batch = tokenizer(
            prompts[start : start + 4],
            padding=True,
            padding_side="right",
            add_special_tokens=False,
            return_tensors="pt",
        ).to(model.device)
        output = model(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            output_hidden_states=True,
        )
        for row, length in enumerate(batch["attention_mask"].sum(dim=1).tolist()):
            states = [hidden[row, :length] for hidden in output.hidden_states]
            pooled = [torch.stack([h[-1].float(), h.float().mean(dim=0)]) for h in states]
            result.append(torch.stack(pooled).cpu().numpy())
    return np.moveaxis(np.stack(result), 0, 2)


def extracted(model, tokenizer, queries: list[str], layers="all") -> np.ndarray:
    """Read queries as the library does; return states."""
    found = extract((model, tokenizer), queries, layers=layers, poolings=POOLINGS)
    return np.stack([[found.states(layer, name) for name in POOLINGS] for layer in found.layers])


def whole_passes(model, tokenizer, queries: list[str], *, masked: bool) -> np.ndarray:
    """Read batches by length, but all states at once; return states."""
    reader = Reader(model, tokenizer)
    reader.layout = replace(reader.layout, places=None, is_causal=not masked)
    survey = reader.survey(queries)
    places = list(product(range(survey.layout.last + 1), POOLINGS))
    batches = plan_batches(survey.n_tokens, survey.layout.token_budget)
    ((rows, states),) = reader.read(queries, [batches], places)
    states = states[:, np.argsort(rows)].cpu().numpy()
    return states.reshape(-1, len(POOLINGS), *states.shape[1:])


@torch.inference_mode()
def bare(model, lengths: np.ndarray, tokens_at_once: int, n_blocks: int) -> None:
    """Run the first blocks on as many tokens, in batches of prompts of the mean length."""
    length = round(float(lengths.mean()))
    n_left, at_once = round(lengths.sum() / length), max(1, tokens_at_once // length)
    blocks, model.layers = model.layers, model.layers[:n_blocks]
    try:
        while n_left > 0:
            n = min(at_once, n_left)
            tokens = torch.randint(0, 16_000, (n, length), device=model.device)
            model(input_ids=tokens, use_cache=False).last_hidden_state.flatten()[0].item()
            n_left -= n
    finally:
        model.layers = blocks


def timed(work: Callable[[], np.ndarray | None]) -> tuple[float, np.ndarray | None]:
    """Return the seconds that a piece of work takes, and its result."""
    begun = time.perf_counter()
    result = work()
    return time.perf_counter() - begun, result


def difference(got: np.ndarray, want: np.ndarray) -> float:
    """Return the largest difference, relative to how much the states of a layer vary."""
    return float((np.abs(got - want) / want.std(axis=(2, 3), keepdims=True)).max())


def flop_per_token(model, lengths: np.ndarray, n_blocks: int) -> float:
    """Return the operations of the first blocks for a token: their matrices, causal attention."""
    c = model.config
    matrices = sum(p.numel() for p in model.layers[:n_blocks].parameters() if p.dim() == 2)
    attention = 2 * n_blocks * c.num_attention_heads * c.head_dim * (lengths**2).sum()
    return 2.0 * matrices + attention / lengths.sum()


def estimate(
    flop_per_token: float,
    flop_per_second: float,
    tokens_per_query: float,
    price_per_hour: float = 0.0,
    queries: int = 10_000_000,
) -> tuple[float, float]:
    """Return the hours that one device needs for so many queries, and what they cost."""
    hours = queries * tokens_per_query * flop_per_token / flop_per_second / 3600
    return hours, hours * price_per_hour


def machine_name(device: torch.device) -> str:
    """Return what kind of GPU or CPU a device is, and of a CPU the number of cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--queries-from", help="a CSV file with a column question")
    parser.add_argument("--queries", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=1, help="the best of which counts")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=DTYPES)
    parser.add_argument("--peak-tflops", type=float, help="of the device, to state the share of it")
    parser.add_argument("--gpu-tflops", type=float, default=989, help="peak of the GPU assumed")
    parser.add_argument("--gpu-share", type=float, default=0.3, help="of its peak, assumed")
    parser.add_argument("--price-per-hour", type=float, default=3.0, help="of that GPU, in USD")
    a = parser.parse_args()

    every, queries = read_queries(a.queries_from, a.queries, seed=0)
    tokenizer = make_tokenizer(every)
    torch.manual_seed(0)
    with torch.device(a.device):
        model = AutoModelForCausalLM.from_config(Qwen3Config(**SHAPE), dtype=DTYPES[a.dtype]).eval()
    encoder, last = model.model, SHAPE["num_hidden_layers"]
    half = last // 2
    warm = [query[:200] for query in queries[:4]]
    obvious(model, tokenizer, warm)
    lengths = extract((encoder, tokenizer), queries, layers=[0]).n_tokens
    at_once = 16_384 if encoder.device.type == "cuda" else 1024

    ways: dict[str, Callable[[], np.ndarray | None]] = {
        "the obvious way": lambda: obvious(model, tokenizer, queries),
        "without the head": lambda: obvious(encoder, tokenizer, queries),
        "and in batches by length": lambda: whole_passes(encoder, tokenizer, queries, masked=True),
        "and without a mask": lambda: whole_passes(encoder, tokenizer, queries, masked=False),
        "and pooled in the pass: extraction": lambda: extracted(encoder, tokenizer, queries),
        "floor, all blocks": lambda: bare(encoder, lengths, at_once, last),
        "extraction to half depth": lambda: extracted(encoder, tokenizer, queries, range(half + 1)),
        "floor, half of the blocks": lambda: bare(encoder, lengths, at_once, half),
    }
    base_name, _, _, _, ours_name, floor_name, half_name, half_floor_name = ways
    seconds: dict[str, float] = dict.fromkeys(ways, float("inf"))
    states: dict[str, np.ndarray | None] = {}
    for _ in range(a.rounds):
        for name, work in ways.items():
            took, states[name] = timed(work)
            seconds[name] = min(seconds[name], took)
    for name, took in seconds.items():
        times = seconds[base_name] / took
        print(f"{name:36s}{took:8.1f} s{lengths.sum() / took:8.0f} tokens/s{times:6.2f} times")

    want = states[base_name]
    tolerance = 1e-3 if a.dtype == "float32" else 0.3
    differences = {
        name: difference(got, want[: len(got)])
        for name, got in states.items()
        if got is not None and name != base_name
    }
    assert max(differences.values()) < tolerance, f"results differ: {differences}"

    n_tokens, mean = int(lengths.sum()), float(lengths.mean())
    print(f"\n{machine_name(encoder.device)}; {a.dtype}; {torch.get_num_threads()} threads")
    print(f"ten million queries of {mean:.0f} tokens, in hours of one device:")
    for depth, n_blocks, name in (("all layers", last, ours_name), ("half depth", half, half_name)):
        flop = flop_per_token(encoder, lengths, n_blocks)
        reached = flop * n_tokens / seconds[name]
        hours, _ = estimate(flop, reached, mean)
        gpu_hours, cost = estimate(flop, a.gpu_share * a.gpu_tflops * 1e12, mean, a.price_per_hour)
        print(
            f"{depth}: {flop / 1e9:.2f} GFLOP a token\n"
            f"  measured here: {len(queries) / seconds[name]:.2f} queries/s, "
            f"{n_tokens / seconds[name]:.0f} tokens/s, {reached / 1e12:.3f} TFLOP/s: "
            f"{hours:,.0f} hours\n"
            f"  assumed, {a.gpu_share:.0%} of a GPU's {a.gpu_tflops:g} TFLOP/s at "
            f"{a.price_per_hour:.2f} USD an hour: {gpu_hours:,.1f} hours, {cost:,.0f} USD"
        )

    base, ours = seconds[base_name], seconds[ours_name]
    tflops = flop_per_token(encoder, lengths, last) * n_tokens / ours / 1e12
    result = {
        "speedup_all_layers": base / ours,
        "speedup_half_depth": base / seconds[half_name],
        "share_of_floor": seconds[floor_name] / ours,
        "share_of_floor_half_depth": seconds[half_floor_name] / seconds[half_name],
        "largest_difference": max(differences[ours_name], differences[half_name]),
        "queries": len(queries),
        "tokens": n_tokens,
        "longest": int(lengths.max()),
        "device": a.device,
        "dtype": a.dtype,
        "threads": torch.get_num_threads(),
        "tflops": tflops,
    }
    if a.peak_tflops:
        result["share_of_peak"] = tflops / a.peak_tflops
    print(
        json.dumps({k: float(f"{v:.3g}") if isinstance(v, float) else v for k, v in result.items()})
    )


if __name__ == "__main__":
    main()
