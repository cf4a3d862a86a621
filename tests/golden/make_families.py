"""Makes tests/golden/families: one tiny random model per family and toggle, with logits by Hugging Face transformers.

Each folder holds config.json and model.safetensors; families.h5 holds, per folder, `ids` [T] and `logits` [T, V] of a
float32 forward pass over the stored (rounded) weights. Every toggle is checked to change the logits, so that a reader
that ignores it cannot pass. Run with torch, transformers, safetensors and h5py: python3 make_families.py
"""
import copy
import json
import pathlib
import shutil

import h5py
import numpy as np
import torch
import transformers
from safetensors.torch import save_file

here = pathlib.Path(__file__).parent
out = here / "families"
TOKENS = 40

base = dict(hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            vocab_size=64, max_position_embeddings=128, rms_norm_eps=1e-5, hidden_act="silu", bos_token_id=0,
            eos_token_id=1, tie_word_embeddings=False)
theta = dict(rope_theta=1000.0)


def scaled(**parameters):  # the key as configurations up to 2025 spell it
    return dict(**theta, rope_scaling=parameters)


def parameters(**values):  # the newer spelling, one object
    return dict(rope_parameters=dict(**theta, **values))


llama3 = dict(rope_type="llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=32)
yarn = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32)
betas = dict(beta_fast=2.0, beta_slow=0.1)  # so that the ramp lies within the few dims there are
kinds = ["sliding_attention", "full_attention"]

# name: (model_type, stored type, keys, the case whose logits must differ)
cases = {
    "llama": ("llama", "bf16", theta, None),
    "llama-f16": ("llama", "f16", theta, None),
    "llama-f32": ("llama", "f32", dict(**theta, intermediate_size=8), None),
    "llama-mha": ("llama", "bf16", dict(**theta, num_key_value_heads=4), None),
    "llama-one-kv-head": ("llama", "bf16", dict(**theta, num_key_value_heads=1), None),
    "llama-head-dim": ("llama", "bf16", dict(**theta, head_dim=12), None),
    "llama-attention-bias": ("llama", "bf16", dict(**theta, attention_bias=True), "llama"),
    "llama-mlp-bias": ("llama", "bf16", dict(**theta, mlp_bias=True), "llama"),
    "llama-tied": ("llama", "bf16", dict(**theta, tie_word_embeddings=True), "llama"),
    "llama-linear": ("llama", "bf16", scaled(type="linear", factor=4.0), "llama"),
    "llama-dynamic": ("llama", "bf16", dict(max_position_embeddings=32, **scaled(rope_type="dynamic", factor=4.0)), "llama"),
    "llama-dynamic-short": ("llama", "bf16", scaled(rope_type="dynamic", factor=4.0), None),
    "llama-llama3": ("llama", "bf16", scaled(**llama3), "llama"),
    "llama-llama3-parameters": ("llama", "bf16", parameters(**llama3), "llama"),
    "llama-yarn": ("llama", "bf16", scaled(**yarn, **betas), "llama"),
    "llama-yarn-mscale": ("llama", "bf16", parameters(mscale=1.0, mscale_all_dim=0.5, **yarn, **betas), "llama-yarn"),
    "llama-yarn-attention-factor": ("llama", "bf16", parameters(attention_factor=1.5, **yarn, **betas), "llama-yarn"),
    "llama-yarn-no-truncate": ("llama", "bf16", parameters(truncate=False, **yarn, **betas), "llama-yarn"),
    "mistral": ("mistral", "bf16", dict(**theta, sliding_window=None), None),
    "mistral-window": ("mistral", "bf16", dict(**theta, sliding_window=8), "mistral"),
    "mistral-head-dim": ("mistral", "bf16", dict(**theta, sliding_window=None, head_dim=12), None),
    "qwen2": ("qwen2", "bf16", dict(**theta, use_sliding_window=False), "qwen2-no-bias"),
    "qwen2-tied": ("qwen2", "bf16", dict(**theta, tie_word_embeddings=True), "qwen2"),
    "qwen2-window": ("qwen2", "bf16", dict(**theta, use_sliding_window=True, sliding_window=8, max_window_layers=1,
                                           layer_types=kinds[::-1]), "qwen2"),
    "qwen2-yarn": ("qwen2", "bf16", scaled(**yarn), "qwen2"),
    "qwen3": ("qwen3", "bf16", dict(**theta, head_dim=12), "qwen3-no-norm"),
    "qwen3-bias": ("qwen3", "bf16", dict(**theta, head_dim=12, attention_bias=True), "qwen3"),
    "qwen3-tied": ("qwen3", "bf16", dict(**theta, head_dim=12, tie_word_embeddings=True), "qwen3"),
    "qwen3-window": ("qwen3", "bf16", dict(**theta, head_dim=12, use_sliding_window=True, sliding_window=8,
                                           max_window_layers=1, layer_types=kinds), "qwen3"),
}
stored = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}


def build(model_type, dtype, keys):
    config = {**base, **copy.deepcopy(keys)}
    model = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(model_type, **copy.deepcopy(config)), attn_implementation="eager")
    for name, value in model.named_parameters():
        # Seeded by name, so that two cases share what they have in common; large enough that every part matters.
        generator = torch.Generator().manual_seed(sum((i + 1) * b for i, b in enumerate(name.encode())))
        with torch.no_grad():
            noise = torch.randn(value.shape, generator=generator)
            if name.endswith("norm.weight"):
                value.copy_(1.0 + 0.2 * noise)
            elif name.endswith("bias"):
                value.copy_(0.5 * noise)
            else:
                value.copy_(noise * (1.5 / value.shape[-1] ** 0.5))
            # Parameters alone: the model's rotary frequencies stay float32.
            value.copy_(value.to(stored[dtype]))
    return config, model


def run(model, ids):
    with torch.no_grad():
        return model.eval()(input_ids=torch.tensor(ids)[None], use_cache=False).logits[0].numpy()


def without(reference, ids):
    """Logits of the cases that exist only to be different."""
    if reference == "qwen2-no-bias":
        _, model = build("qwen2", "bf16", cases["qwen2"][2])
        for name, value in model.named_parameters():
            if name.endswith("bias"):
                value.data.zero_()
    else:
        _, model = build("qwen3", "bf16", cases["qwen3"][2])
        for layer in model.model.layers:
            layer.self_attn.q_norm = layer.self_attn.k_norm = torch.nn.Identity()
    return run(model, ids)


def main():
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    torch.set_num_threads(1)
    ids = np.random.default_rng(7).integers(2, base["vocab_size"], TOKENS)
    logits = {}
    with h5py.File(out / "families.h5", "w", libver=("earliest", "v108")) as file:
        file.attrs["made_by"] = f"transformers {transformers.__version__}, torch {torch.__version__}"
        for name, (model_type, dtype, keys, other) in cases.items():
            folder = out / name
            folder.mkdir()
            config, model = build(model_type, dtype, keys)
            tensors = {k: v.to(stored[dtype]).contiguous().clone() for k, v in model.state_dict().items()
                       if not (k == "lm_head.weight" and config["tie_word_embeddings"])}
            save_file(tensors, folder / "model.safetensors")
            (folder / "model.safetensors").chmod(0o644)
            names = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}
            config = {"architectures": [names[model_type] + "ForCausalLM"], "model_type": model_type,
                      "torch_dtype": {"bf16": "bfloat16", "f16": "float16", "f32": "float32"}[dtype], **config}
            (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
            logits[name] = run(model, ids)
            assert np.isfinite(logits[name]).all()
            if other:
                reference = logits[other] if other in logits else without(other, ids)
                change = float(np.abs(logits[name] - reference).max())
                assert change > 0.02, (name, other, change)
                print(f"{name}: differs from {other} by {change:.3f}")
            group = file.create_group(name)
            group["ids"] = ids.astype("i4")
            group["logits"] = logits[name].astype("f4")


main()
