"""Tiny configurations of many architectures, for models of a few thousand random weights."""

from __future__ import annotations

from typing import Any, NamedTuple

from transformers import AutoConfig, PreTrainedConfig

VOCABULARY_SIZE = 25
N_LAYERS = 3
WINDOW = 4  # of sliding attention: shorter than most prompts
IDS = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}
LARGE = 0.3  # weights: layers and tokens then differ by far more than rounding

# What configurations have, under the names that many of them use.
COMMON = {"vocab_size": VOCABULARY_SIZE, "initializer_range": LARGE, **IDS}
CORE = COMMON | {"hidden_size": 16, "num_hidden_layers": N_LAYERS}
HEADS = CORE | {"num_attention_heads": 2, "max_position_embeddings": 32}
SHAPE = HEADS | {"intermediate_size": 32}
GPT = COMMON | {"n_embd": 16, "n_layer": N_LAYERS, "n_head": 2, "n_positions": 32}
GROUPED = SHAPE | {"num_key_value_heads": 1}
WIDE = GROUPED | {"head_dim": 12}  # heads that together are wider than the model
ALTERNATING = ["sliding_attention", "full_attention", "sliding_attention"]
SLIDING = {"sliding_window": WINDOW, "layer_types": ALTERNATING}
DELTA = {
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "linear_num_key_heads": 1, "linear_num_value_heads": 2,
}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LOCAL_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
LATENT = {
    "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4,
    "v_head_dim": 8,
}  # fmt: skip
VISION = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "image_size": 8, "patch_size": 4,
}  # fmt: skip
QWEN_VISION = {
    "depth": 1, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 16,
    "fullatt_block_indexes": [0],
}  # fmt: skip
# Beyond the vocabulary: no prompt holds an image.
IMAGES = {"image_token_id": 30, "video_token_id": 31, "vision_start_token_id": 32,
          "vision_end_token_id": 33}  # fmt: skip
ROTARY = {"rope_type": "default", "rope_theta": 10_000.0}


class Architecture(NamedTuple):
    """A row of the compatibility matrix.

    Attributes
    ----------
    name : str
        As people call it.
    config : PreTrainedConfig
        Of a tiny model in which every kind of block occurs.
    blocks : str
        What the blocks are made of, "or" where they alternate.
    part : str
        Of the model, what reads text where the whole needs more than text.
    """

    name: str
    config: PreTrainedConfig
    blocks: str
    part: str


ARCHITECTURES: dict[str, Architecture] = {}


def add(name, kind, shape, blocks="attention", part="", key=None, **own: Any) -> None:
    """Add a model type; `own` is what its configuration has besides `shape`."""
    config = AutoConfig.for_model(kind, **shape, **own)
    ARCHITECTURES[key or kind] = Architecture(name, config, blocks, part)


BESIDE, EITHER = "attention beside MLP", "sliding or full attention"
# fmt: off
add("Llama", "llama", SHAPE, num_key_value_heads=2)
add("Llama with is_causal=False", "llama", GROUPED, key="llama_bidirectional", is_causal=False)
add("Mistral", "mistral", GROUPED, "sliding attention", sliding_window=WINDOW)
add("Mixtral", "mixtral", GROUPED | LOCAL_EXPERTS, "attention; experts")
add("Qwen 2", "qwen2", GROUPED)
add("Qwen 3", "qwen3", GROUPED, head_dim=8)
add("Qwen 3 MoE", "qwen3_moe", WIDE | EXPERTS, "attention; dense or experts", mlp_only_layers=[1])
add("Qwen 3 Next", "qwen3_next", WIDE | EXPERTS | DELTA, "gated delta net or attention; experts",
    shared_expert_intermediate_size=16)
add("Qwen 3.5", "qwen3_5_text", WIDE | DELTA, "gated delta net or attention")
add("Gemma 2", "gemma2", WIDE | SLIDING, EITHER)
add("Gemma 3", "gemma3_text", WIDE | SLIDING, EITHER)
add("EmbeddingGemma", "gemma3_text", WIDE | SLIDING, EITHER, key="gemma3_bidirectional",
    use_bidirectional_attention=True)
add("Phi-2", "phi", SHAPE, BESIDE)
add("Phi-3", "phi3", GROUPED, "sliding attention", sliding_window=WINDOW)
add("GPT-2", "gpt2", GPT)
add("GPT-Neo", "gpt_neo", SHAPE, EITHER, num_layers=N_LAYERS, window_size=WINDOW,
    attention_types=[[["global", "local", "global"], 1]])
add("GPT-J", "gptj", GPT, BESIDE, rotary_dim=4)
add("GPT-NeoX", "gpt_neox", SHAPE, BESIDE)
add("gpt-oss", "gpt_oss", WIDE | SLIDING | LOCAL_EXPERTS, "sliding or full attention; experts",
    rope_parameters=ROTARY)
add("OLMo 2", "olmo2", GROUPED)
add("DeepSeek-V3", "deepseek_v3", SHAPE | LATENT, "latent attention; dense or experts",
    num_key_value_heads=2, moe_intermediate_size=16, n_routed_experts=4, num_experts_per_tok=2,
    n_group=2, topk_group=1, first_k_dense_replace=1)
add("Granite", "granite", GROUPED, embedding_multiplier=3.0, residual_multiplier=0.5,
    attention_multiplier=0.4)
add("Cohere 2", "cohere2", GROUPED | SLIDING, "sliding or full attention beside MLP")
add("SmolLM3", "smollm3", GROUPED, "attention with or without positions", no_rope_layers=[1, 0, 1])
add("Nemotron", "nemotron", GROUPED)
add("Falcon", "falcon", HEADS, BESIDE)
add("Falcon with ALiBi", "falcon", HEADS, key="falcon_alibi", alibi=True, parallel_attn=False)
add("Bloom", "bloom", CORE, n_head=2)
add("MPT", "mpt", COMMON, d_model=16, n_layers=N_LAYERS, n_heads=2, max_seq_len=32,
    expansion_ratio=2)
add("OPT", "opt", HEADS, ffn_dim=32, init_std=LARGE)
add("StableLM", "stablelm", GROUPED)
add("StarCoder 2", "starcoder2", GROUPED, "sliding attention", sliding_window=WINDOW)
add("LFM2", "lfm2", GROUPED, "short convolution or attention", block_multiple_of=8,
    layer_types=["conv", "full_attention", "conv"])
add("Jamba", "jamba", GROUPED, "Mamba or attention; dense or experts", attn_layer_period=2,
    attn_layer_offset=1, expert_layer_period=2, expert_layer_offset=1, num_experts=4,
    mamba_d_state=8, mamba_dt_rank=4)
add("Bamba", "bamba", GROUPED, "Mamba 2 or attention", attn_layer_indices=[1], mamba_n_heads=4,
    mamba_d_state=8, mamba_chunk_size=8)
add("Mamba", "mamba", CORE, "Mamba", state_size=8)
add("Mamba 2", "mamba2", CORE, "Mamba 2", state_size=8, num_heads=4, head_dim=8, n_groups=1,
    chunk_size=8)
add("FalconMamba", "falcon_mamba", CORE, "Mamba", state_size=8)
add("RWKV", "rwkv", CORE, "linear attention", context_length=32, rescale_every=2)
add("BERT", "bert", SHAPE)
add("RoBERTa", "roberta", SHAPE)
add("DistilBERT", "distilbert", {}, vocab_size=VOCABULARY_SIZE, dim=16, hidden_dim=32,
    n_layers=N_LAYERS, n_heads=2, max_position_embeddings=32, initializer_range=LARGE,
    pad_token_id=0)
add("ALBERT", "albert", SHAPE, "attention; one block for all layers", embedding_size=8)
add("ELECTRA", "electra", SHAPE, embedding_size=8)
add("DeBERTa-v3", "deberta-v2", SHAPE, key="deberta_v2", relative_attention=True,
    position_buckets=8, share_att_key=True, pos_att_type=["p2c", "c2p"],
    position_biased_input=False, norm_rel_ebd="layer_norm")
add("ModernBERT", "modernbert", SHAPE, EITHER, local_attention=WINDOW, layer_types=ALTERNATING,
    cls_token_id=1, sep_token_id=1)
add("T5's encoder", "t5", {}, part="encoder", vocab_size=VOCABULARY_SIZE, d_model=16, d_ff=32,
    d_kv=8, num_layers=N_LAYERS, num_heads=2, decoder_start_token_id=0, pad_token_id=0,
    eos_token_id=1)
add("BART's encoder", "bart", IDS, part="encoder", vocab_size=VOCABULARY_SIZE, d_model=16,
    encoder_layers=N_LAYERS, encoder_ffn_dim=32, encoder_attention_heads=2, decoder_layers=1,
    decoder_ffn_dim=32, decoder_attention_heads=2, max_position_embeddings=32, init_std=LARGE)
add("CLIP's text tower", "clip", IDS, part="text_model",
    text_config=SHAPE | {"initializer_factor": 10.0}, vision_config=VISION)
add("Qwen 2.5 VL's text tower", "qwen2_5_vl", IMAGES, vision_config=QWEN_VISION,
    text_config=GROUPED | {"rope_parameters": ROTARY | {"mrope_section": [1, 1, 2]}})
add("LLaVA's text tower", "llava", {}, image_token_index=30,
    text_config=GROUPED | {"model_type": "llama"},
    vision_config=VISION | {"model_type": "clip_vision_model"})
add("Gemma 3's text tower", "gemma3", {}, EITHER, image_token_index=30,
    text_config=WIDE | SLIDING, vision_config=VISION)
# fmt: on
