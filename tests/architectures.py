"""Tiny configurations of many architectures, for models of a few thousand random weights."""

from __future__ import annotations

from dataclasses import dataclass

import transformers as hf

VOCABULARY_SIZE = 25
N_LAYERS = 3
WINDOW = 4  # of sliding attention: shorter than most prompts
IDS = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}
LARGE = 0.3  # weights: layers and tokens then differ by far more than rounding

# What most configurations have, under the names that most of them use.
CORE = {
    "vocab_size": VOCABULARY_SIZE,
    "hidden_size": 16,
    "num_hidden_layers": N_LAYERS,
    "initializer_range": LARGE,
    **IDS,
}
SHAPE = CORE | {
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
}
GPT = {
    "vocab_size": VOCABULARY_SIZE,
    "n_embd": 16,
    "n_layer": N_LAYERS,
    "n_head": 2,
    "n_positions": 32,
    "initializer_range": LARGE,
    **IDS,
}
GROUPED = SHAPE | {"num_key_value_heads": 1}
WIDE = GROUPED | {"head_dim": 12}  # heads that together are wider than the model
SLIDING = {
    "sliding_window": WINDOW,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}
DELTA = {
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 1,
    "linear_num_value_heads": 2,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LATENT = {
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}
ROTARY = {"rope_type": "default", "rope_theta": 10_000.0}


@dataclass(frozen=True)
class Architecture:
    """A row of the compatibility matrix.

    Attributes
    ----------
    name : str
        As people call it.
    config : hf.PreTrainedConfig
        Of a tiny model in which every kind of block occurs.
    blocks : str
        What the blocks are made of, "or" where they alternate.
    part : str
        Of the model, what reads text where the whole needs more than text.
    """

    name: str
    config: hf.PreTrainedConfig
    blocks: str = "attention"
    part: str = ""


ARCHITECTURES = {
    "llama": Architecture("Llama", hf.LlamaConfig(**SHAPE, num_key_value_heads=2)),
    "llama_bidirectional": Architecture(
        "Llama with is_causal=False", hf.LlamaConfig(**GROUPED, is_causal=False)
    ),
    "mistral": Architecture(
        "Mistral", hf.MistralConfig(**GROUPED, sliding_window=WINDOW), "sliding attention"
    ),
    "mixtral": Architecture(
        "Mixtral",
        hf.MixtralConfig(**GROUPED, num_local_experts=4, num_experts_per_tok=2),
        "attention; experts",
    ),
    "qwen2": Architecture("Qwen 2", hf.Qwen2Config(**GROUPED)),
    "qwen3": Architecture("Qwen 3", hf.Qwen3Config(**SHAPE, num_key_value_heads=1, head_dim=8)),
    "qwen3_moe": Architecture(
        "Qwen 3 MoE",
        hf.Qwen3MoeConfig(**WIDE, **EXPERTS, mlp_only_layers=[1]),
        "attention; dense or experts",
    ),
    "qwen3_next": Architecture(
        "Qwen 3 Next",
        hf.Qwen3NextConfig(**WIDE, **EXPERTS, **DELTA, shared_expert_intermediate_size=16),
        "gated delta net or attention; experts",
    ),
    "qwen3_5_text": Architecture(
        "Qwen 3.5", hf.Qwen3_5TextConfig(**WIDE, **DELTA), "gated delta net or attention"
    ),
    "gemma2": Architecture(
        "Gemma 2", hf.Gemma2Config(**WIDE, **SLIDING), "sliding or full attention"
    ),
    "gemma3_text": Architecture(
        "Gemma 3", hf.Gemma3TextConfig(**WIDE, **SLIDING), "sliding or full attention"
    ),
    "gemma3_bidirectional": Architecture(
        "EmbeddingGemma",
        hf.Gemma3TextConfig(**WIDE, **SLIDING, use_bidirectional_attention=True),
        "sliding or full attention",
    ),
    "phi": Architecture("Phi-2", hf.PhiConfig(**SHAPE), "attention beside MLP"),
    "phi3": Architecture(
        "Phi-3", hf.Phi3Config(**GROUPED, sliding_window=WINDOW), "sliding attention"
    ),
    "gpt2": Architecture("GPT-2", hf.GPT2Config(**GPT)),
    "gpt_neo": Architecture(
        "GPT-Neo",
        hf.GPTNeoConfig(
            **SHAPE, num_layers=N_LAYERS, window_size=WINDOW,
            attention_types=[[["global", "local", "global"], 1]],
        ),
        "sliding or full attention",
    ),
    "gptj": Architecture("GPT-J", hf.GPTJConfig(**GPT, rotary_dim=4), "attention beside MLP"),
    "gpt_neox": Architecture("GPT-NeoX", hf.GPTNeoXConfig(**SHAPE), "attention beside MLP"),
    "gpt_oss": Architecture(
        "gpt-oss",
        hf.GptOssConfig(
            **WIDE, **SLIDING, num_local_experts=4, num_experts_per_tok=2, rope_parameters=ROTARY
        ),
        "sliding or full attention; experts",
    ),
    "olmo2": Architecture("OLMo 2", hf.Olmo2Config(**GROUPED)),
    "deepseek_v3": Architecture(
        "DeepSeek-V3",
        hf.DeepseekV3Config(
            **SHAPE, **LATENT, num_key_value_heads=2, moe_intermediate_size=16, n_routed_experts=4,
            num_experts_per_tok=2, n_group=2, topk_group=1, first_k_dense_replace=1,
        ),
        "latent attention; dense or experts",
    ),
    "granite": Architecture(
        "Granite",
        hf.GraniteConfig(
            **GROUPED, embedding_multiplier=3.0, residual_multiplier=0.5, attention_multiplier=0.4
        ),
    ),
    "cohere2": Architecture(
        "Cohere 2", hf.Cohere2Config(**GROUPED, **SLIDING), "sliding or full attention beside MLP"
    ),
    "smollm3": Architecture(
        "SmolLM3",
        hf.SmolLM3Config(**GROUPED, no_rope_layers=[1, 0, 1]),
        "attention with or without positions",
    ),
    "nemotron": Architecture("Nemotron", hf.NemotronConfig(**GROUPED)),
    "falcon": Architecture(
        "Falcon",
        hf.FalconConfig(**CORE, num_attention_heads=2, max_position_embeddings=32),
        "attention beside MLP",
    ),
    "falcon_alibi": Architecture(
        "Falcon with ALiBi",
        hf.FalconConfig(**CORE, num_attention_heads=2, alibi=True, parallel_attn=False),
    ),
    "bloom": Architecture("Bloom", hf.BloomConfig(**CORE, n_head=2)),
    "mpt": Architecture(
        "MPT",
        hf.MptConfig(
            vocab_size=VOCABULARY_SIZE, d_model=16, n_layers=N_LAYERS, n_heads=2, max_seq_len=32,
            expansion_ratio=2, initializer_range=LARGE, **IDS,
        ),
    ),
    "opt": Architecture(
        "OPT",
        hf.OPTConfig(
            **CORE, num_attention_heads=2, max_position_embeddings=32, ffn_dim=32, init_std=LARGE
        ),
    ),
    "stablelm": Architecture("StableLM", hf.StableLmConfig(**GROUPED)),
    "starcoder2": Architecture(
        "StarCoder 2", hf.Starcoder2Config(**GROUPED, sliding_window=WINDOW), "sliding attention"
    ),
    "lfm2": Architecture(
        "LFM2",
        hf.Lfm2Config(
            **GROUPED, layer_types=["conv", "full_attention", "conv"], block_multiple_of=8
        ),
        "short convolution or attention",
    ),
    "jamba": Architecture(
        "Jamba",
        hf.JambaConfig(
            **GROUPED, attn_layer_period=2, attn_layer_offset=1, expert_layer_period=2,
            expert_layer_offset=1, num_experts=4, mamba_d_state=8, mamba_dt_rank=4,
        ),
        "Mamba or attention; dense or experts",
    ),
    "bamba": Architecture(
        "Bamba",
        hf.BambaConfig(
            **GROUPED, attn_layer_indices=[1], mamba_n_heads=4, mamba_d_state=8,
            mamba_chunk_size=8,
        ),
        "Mamba 2 or attention",
    ),
    "mamba": Architecture("Mamba", hf.MambaConfig(**CORE, state_size=8), "Mamba"),
    "mamba2": Architecture(
        "Mamba 2",
        hf.Mamba2Config(**CORE, state_size=8, num_heads=4, head_dim=8, n_groups=1, chunk_size=8),
        "Mamba 2",
    ),
    "falcon_mamba": Architecture(
        "FalconMamba", hf.FalconMambaConfig(**CORE, state_size=8), "Mamba"
    ),
    "rwkv": Architecture(
        "RWKV", hf.RwkvConfig(**CORE, context_length=32, rescale_every=2), "linear attention"
    ),
    "bert": Architecture("BERT", hf.BertConfig(**SHAPE)),
    "roberta": Architecture("RoBERTa", hf.RobertaConfig(**SHAPE)),
    "distilbert": Architecture(
        "DistilBERT",
        hf.DistilBertConfig(
            vocab_size=VOCABULARY_SIZE, dim=16, hidden_dim=32, n_layers=N_LAYERS, n_heads=2,
            max_position_embeddings=32, initializer_range=LARGE, pad_token_id=0,
        ),
    ),
    "albert": Architecture(
        "ALBERT", hf.AlbertConfig(**SHAPE, embedding_size=8), "attention; one block for all layers"
    ),
    "electra": Architecture("ELECTRA", hf.ElectraConfig(**SHAPE, embedding_size=8)),
    "deberta_v2": Architecture(
        "DeBERTa-v3",
        hf.DebertaV2Config(
            **SHAPE, relative_attention=True, position_buckets=8, share_att_key=True,
            pos_att_type=["p2c", "c2p"], position_biased_input=False, norm_rel_ebd="layer_norm",
        ),
    ),
    "modernbert": Architecture(
        "ModernBERT",
        hf.ModernBertConfig(
            **SHAPE, local_attention=WINDOW, layer_types=SLIDING["layer_types"],
            cls_token_id=1, sep_token_id=1,
        ),
        "sliding or full attention",
    ),
    "t5": Architecture(
        "T5's encoder",
        hf.T5Config(
            vocab_size=VOCABULARY_SIZE, d_model=16, d_ff=32, d_kv=8, num_layers=N_LAYERS,
            num_heads=2, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
        ),
        part="encoder",
    ),
    "bart": Architecture(
        "BART's encoder",
        hf.BartConfig(
            vocab_size=VOCABULARY_SIZE, d_model=16, encoder_layers=N_LAYERS, encoder_ffn_dim=32,
            encoder_attention_heads=2, decoder_layers=1, decoder_ffn_dim=32,
            decoder_attention_heads=2, max_position_embeddings=32, init_std=LARGE, **IDS,
        ),
        part="encoder",
    ),
    "clip": Architecture(
        "CLIP's text tower",
        hf.CLIPConfig(
            text_config=SHAPE | {"initializer_factor": 10.0}, vision_config=VISION, **IDS
        ),
        part="text_model",
    ),
    "qwen2_5_vl": Architecture(
        "Qwen 2.5 VL's text tower",
        hf.Qwen2_5_VLConfig(
            text_config=GROUPED | {"rope_parameters": ROTARY | {"mrope_section": [1, 1, 2]}},
            vision_config={
                "depth": 1, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2,
                "out_hidden_size": 16, "fullatt_block_indexes": [0],
            },
            # beyond the vocabulary: no prompt holds an image
            image_token_id=30, video_token_id=31, vision_start_token_id=32, vision_end_token_id=33,
        ),
    ),
    "llava": Architecture(
        "LLaVA's text tower",
        hf.LlavaConfig(
            text_config=hf.LlamaConfig(**GROUPED), vision_config=hf.CLIPVisionConfig(**VISION),
            image_token_index=30,
        ),
    ),
    "gemma3": Architecture(
        "Gemma 3's text tower",
        hf.Gemma3Config(
            text_config=hf.Gemma3TextConfig(**WIDE, **SLIDING),
            vision_config=hf.SiglipVisionConfig(**VISION), image_token_index=30,
        ),
        "sliding or full attention",
    ),
}  # fmt: skip
