"""What transformers makes of config.json files: shapes, windows, biases and rotary frequencies.

    python3 make_configs.py      # writes configs.json
"""
import json
import pathlib
import tempfile
import warnings

import torch
import transformers
from transformers import AutoConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

warnings.filterwarnings("ignore")
transformers.logging.set_verbosity_error()
SIZES = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=4, num_attention_heads=4, vocab_size=100)
BASE = dict(model_type="llama", **SIZES, num_key_value_heads=2, max_position_embeddings=4096)
BIG = dict(model_type="llama", hidden_size=2048, intermediate_size=96, num_hidden_layers=1, num_attention_heads=16,
           num_key_value_heads=8, vocab_size=100)
QWEN = dict(model_type="qwen2", **SIZES, num_key_value_heads=2)
QWEN3 = dict(model_type="qwen3", **SIZES, num_key_value_heads=2, head_dim=32)
YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32768)
SHORT = [1.0 + 0.01 * m for m in range(64)]
LONG = [1.0 + 0.5 * m for m in range(64)]
LONGROPE = dict(rope_type="longrope", short_factor=SHORT, long_factor=LONG)
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=8192)


def both(config, theta, scaling):
    """The two generations of the same rotary parameters."""
    return [dict(config, rope_theta=theta, rope_scaling=scaling),
            dict(config, rope_parameters=dict(scaling or {"rope_type": "default"}, rope_theta=theta))]


CONFIGS = [
    BASE, dict(BASE, num_key_value_heads=None), {k: v for k, v in BASE.items() if k != "num_key_value_heads"},
    dict(BASE, head_dim=32), dict(BASE, attention_bias=True, mlp_bias=True, rms_norm_eps=1e-5),
    dict(BASE, tie_word_embeddings=True, eos_token_id=[3, 4], bos_token_id=None, torch_dtype="bfloat16"),
    dict(BASE, dtype="float16"), {k: v for k, v in BASE.items() if k != "max_position_embeddings"},
    dict(model_type="mistral", **SIZES | {"num_attention_heads": 8}), dict(BASE, model_type="mistral", sliding_window=None),
    dict(BASE, model_type="mistral", sliding_window=512), dict(BASE, model_type="mistral", head_dim=64),
    QWEN, dict(QWEN, use_sliding_window=True, sliding_window=128, max_window_layers=2),
    dict(QWEN, use_sliding_window=True, max_window_layers=1), dict(QWEN, use_sliding_window=False, sliding_window=128),
    dict(QWEN, use_sliding_window=True, sliding_window=128), dict(QWEN, use_sliding_window=True, sliding_window=64,
         layer_types=["full_attention", "sliding_attention", "full_attention", "sliding_attention"]),
    QWEN3, dict(QWEN3, attention_bias=True), {k: v for k, v in QWEN3.items() if k != "head_dim"},
    dict(QWEN3, use_sliding_window=True, sliding_window=32, max_window_layers=3),
    *both(dict(BIG, max_position_embeddings=8192), 500000.0, None),
    *both(dict(BIG, max_position_embeddings=8192), 10000.0, dict(rope_type="linear", factor=4.0)),
    *both(dict(BIG, max_position_embeddings=2048), 10000.0, dict(rope_type="dynamic", factor=2.0)),
    *both(dict(BIG, max_position_embeddings=131072), 500000.0, LLAMA3),
    *both(dict(BIG, max_position_embeddings=131072), 500000.0, dict(LLAMA3, factor=32.0)),
    *both(dict(BIG, max_position_embeddings=131072), 1000000.0, YARN),
    *both(dict(BIG, max_position_embeddings=131072), 1000000.0, dict(YARN, beta_fast=16, beta_slow=2, truncate=False)),
    *both(dict(BIG, max_position_embeddings=131072), 1000000.0, dict(YARN, mscale=1.0, mscale_all_dim=0.5)),
    *both(dict(BIG, max_position_embeddings=131072), 1000000.0, dict(YARN, mscale=1.0, mscale_all_dim=1.0)),
    *both(dict(BIG, max_position_embeddings=131072), 1000000.0, dict(YARN, attention_factor=1.25)),
    *both(dict(BIG, max_position_embeddings=16384), 10000.0, dict(rope_type="yarn", factor=2.0)),
    *both(dict(BIG, max_position_embeddings=131072, original_max_position_embeddings=4096), 10000.0, LONGROPE),
    *both(dict(BIG, max_position_embeddings=131072, original_max_position_embeddings=4096), 10000.0,
          dict(LONGROPE, attention_factor=1.5)),
    dict(BIG, max_position_embeddings=4096, rope_theta=10000.0, rope_scaling={"type": "linear", "factor": 2.0}),
    dict(BIG, max_position_embeddings=4096),
    dict(QWEN, num_hidden_layers=2, layer_types=["full_attention", "sliding_attention"], use_sliding_window=True,
         sliding_window=16, rope_parameters={
             "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
             "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}),
]


def windows(config):
    kinds = getattr(config, "layer_types", None)
    if config.model_type == "mistral":
        return [config.sliding_window or 0] * config.num_hidden_layers
    if kinds is None:
        return [0] * config.num_hidden_layers
    return [config.sliding_window if k == "sliding_attention" else 0 for k in kinds]


def frequencies(config, kind, length):
    parameters = config.rope_parameters[kind] if kind else config.rope_parameters
    if parameters["rope_type"] == "default":
        base, dim = parameters["rope_theta"], getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        f, gain = 1.0 / (base ** (torch.arange(0, dim, 2, dtype=torch.float) / dim)), 1.0
    else:
        f, gain = ROPE_INIT_FUNCTIONS[parameters["rope_type"]](config, "cpu", seq_len=length, layer_type=kind)
    return {"length": length, "kind": kind or "", "gain": float(gain), "inv_freq": [float(x) for x in f]}


def main():
    rows = []
    for raw in CONFIGS:
        with tempfile.TemporaryDirectory() as folder:
            (pathlib.Path(folder) / "config.json").write_text(json.dumps(raw))
            c = AutoConfig.from_pretrained(folder)
        nested = "full_attention" in c.rope_parameters
        lengths = [c.max_position_embeddings]
        kind = (c.rope_parameters["full_attention"] if nested else c.rope_parameters)["rope_type"]
        if kind in ("dynamic", "longrope"):
            lengths += [100, 4096, 4097, 3 * c.max_position_embeddings]
        if not nested and kind == "default":  # what the model's own code says is the same
            own = LlamaRotaryEmbedding(c).inv_freq if c.model_type == "llama" else None
            assert own is None or torch.equal(own, torch.tensor(frequencies(c, None, lengths[0])["inv_freq"]))
        eos = c.eos_token_id
        rows.append({"config": raw, "expect": {
            "family": c.model_type, "kv_heads": c.num_key_value_heads,
            "head_dim": getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads,
            "max_positions": c.max_position_embeddings, "eps": c.rms_norm_eps, "tied": c.tie_word_embeddings,
            "qkv_bias": c.model_type == "qwen2" or bool(getattr(c, "attention_bias", False)),
            "o_bias": bool(getattr(c, "attention_bias", False)), "mlp_bias": bool(getattr(c, "mlp_bias", False)),
            "qk_norm": c.model_type == "qwen3", "dtype": str(c.dtype).replace("torch.", "") if c.dtype else "float32",
            "bos": -1 if c.bos_token_id is None else c.bos_token_id,
            "eos": [] if eos is None else eos if isinstance(eos, list) else [eos],
            "windows": windows(c),
            "rope": [frequencies(c, k, n) for k in (["full_attention", "sliding_attention"] if nested else [None])
                     for n in lengths]}})
    lines = ",\n".join(json.dumps(r, separators=(",", ":")) for r in rows)
    path = pathlib.Path(__file__).parent / "configs.json"
    path.write_text(f'{{"by":"transformers {transformers.__version__}","rows":[\n{lines}\n]}}\n')
    print(len(rows), "configs,", path.stat().st_size, "bytes")


main()
