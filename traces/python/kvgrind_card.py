"""What a trace must say of a Transformers model: shapes, scale, softcap, windows, sinks, RoPE. Refuses by name what the
model card of a trace cannot describe."""
import sys

import torch

from kvgrind_capi import RecordError

_DTYPES = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}
_FULL = ("full_attention", "attention", None)


def refuse(model, found, expected):
    raise RecordError(f"recording {type(model).__name__}: found {found}, expected {expected}")


def text_config(model):
    config = model.config
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def attention_modules(model):
    """The attention of each layer, in order."""
    found = {}
    for name, module in model.named_modules():
        index = getattr(module, "layer_idx", None)
        if isinstance(index, int) and output_projection(module) is not None and "Attention" in type(module).__name__:
            if index in found:
                refuse(model, f"two attention modules for layer {index} ({name})", "one a layer (a decoder-only model)")
            found[index] = module
    if sorted(found) != list(range(len(found))) or not found:
        refuse(model, f"attention modules for layers {sorted(found)}", "one for each layer")
    return [found[i] for i in range(len(found))]


def output_projection(module):
    for name in ("o_proj", "dense", "out_proj"):
        if isinstance(getattr(module, name, None), torch.nn.Linear):
            return getattr(module, name)
    return None


def decoder_of(model, attention):
    """The module that holds the layers (its forward is one pass) and the layers themselves."""
    layers = None
    for module in model.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == len(attention):
            if all(any(child is a for child in layer.modules()) for layer, a in zip(module, attention)):
                layers = module
    for module in model.modules():
        if any(child is layers for child in module.children()):
            return module, list(layers)
    refuse(model, "no list of layers", "a decoder with one")


def head_dim(model, module):
    config = text_config(model)
    return int(getattr(module, "head_dim", None) or getattr(config, "head_dim", None)
               or config.hidden_size // config.num_attention_heads)


def scaling(model, module):
    own = getattr(module, "scaling", None)
    return float(own) if own is not None else head_dim(model, module) ** -0.5


def softcap(model, module):
    own = getattr(module, "attn_logit_softcapping", None)
    if own is None:
        own = getattr(text_config(model), "attn_logit_softcapping", None)
    return float(own) if own else 0.0


def window(model, module, index):
    config = text_config(model)
    kinds = getattr(config, "layer_types", None)
    if kinds:
        kind = kinds[index]
        if kind == "sliding_attention":
            return int(config.sliding_window)
        if kind not in _FULL:
            refuse(model, f"layer {index} of the kind {kind}", "full or sliding attention")
        return 0
    if hasattr(module, "sliding_window"):
        return int(module.sliding_window or 0)
    if getattr(config, "model_type", "") == "mistral":
        return int(getattr(config, "sliding_window", None) or 0)
    if getattr(config, "use_sliding_window", False):
        return int(getattr(config, "sliding_window", None) or 0)
    return 0


def _half_split(model, attention):
    """Whether dims (m, m + r/2) rotate together, as a trace says; read off the model's own function."""
    module = sys.modules[type(attention[0]).__module__]
    x = torch.arange(1.0, 9.0).reshape(1, 1, 1, 8)
    turned = torch.cat((-x[..., 4:], x[..., :4]), dim=-1)
    if hasattr(module, "rotate_half"):
        return torch.equal(module.rotate_half(x), turned)
    if hasattr(module, "apply_rotary_pos_emb"):  # with a cosine and sine for each pair: turned by a quarter
        try:
            zero, one = torch.zeros(1, 1, 4), torch.ones(1, 1, 4)
            return torch.equal(module.apply_rotary_pos_emb(x, x, zero, one)[0], turned)
        except (RuntimeError, TypeError):
            return False
    return False


def rope(model, attention):
    """(sets, set of each layer, modules whose length may change them)"""
    config = text_config(model)
    kinds = getattr(config, "layer_types", None) or [None] * len(attention)
    rotary = [m for m in model.modules() if any("inv_freq" in n and "original" not in n
                                                for n, _ in m.named_buffers(recurse=False))]
    if not rotary:
        if any(hasattr(m, "rotary_emb") for m in model.modules()):
            refuse(model, "rotary embeddings without inv_freq", "inverse frequencies")
        return [], [0] * len(attention), []
    if not _half_split(model, attention):
        refuse(model, "rotary embeddings that pair other dims than (m, m + r/2) (interleaved)", "half-split pairing")

    def one(module, prefix=""):
        kind = getattr(module, "rope_type", None)
        kind = kind.get(prefix.rstrip("_"), "default") if isinstance(kind, dict) else kind or "default"
        factor = getattr(module, prefix + "attention_scaling", 1.0)
        return {"type": kind, "pairing": "half_split", "attention_factor": float(factor),
                "inv_freq": [float(f) for f in getattr(module, prefix + "inv_freq").float().cpu()]}

    local = [m for m in rotary if any(m is getattr(p, "rotary_emb_local", None) for p in model.modules())]
    main = [m for m in rotary if not any(m is l for l in local)]
    typed = sorted({n[:-len("_inv_freq")] for m in main for n, _ in m.named_buffers(recurse=False)
                    if n.endswith("_inv_freq") and "original" not in n})
    if typed:
        sets = [one(main[0], t + "_") for t in typed]
        chosen = [typed.index(k) if k in typed else 0 for k in kinds]
    else:
        sets = [one(main[0])]
        chosen = [0] * len(attention)
        if any(one(m) != sets[0] for m in main[1:]):
            refuse(model, "layers with rotary embeddings of their own", "one set for all, or one a kind of layer")
        if local:
            sets.append(one(local[0]))
            chosen = [1 if window(model, a, i) else 0 for i, a in enumerate(attention)]
    without = getattr(config, "no_rope_layers", None)  # 1 = rotated, 0 = not, as the configs have it
    if without and not all(without):
        sets.append({"type": "none", "pairing": "half_split", "attention_factor": 1.0, "inv_freq": []})
        chosen = [c if without[i] else len(sets) - 1 for i, c in enumerate(chosen)]
    return sets, chosen, [m for m in rotary if any(str(s["type"]) in ("dynamic", "longrope") for s in sets)]


def sinks(attention):
    own = [getattr(a, "sinks", None) for a in attention]
    if all(s is None for s in own):
        return None
    return [s.detach().float() for s in own]


def describe(model, attention, dtype):
    """The card as traces/SCHEMA.md has it; `dtype` of K, V and Q in the run."""
    config = text_config(model)
    if getattr(config, "is_encoder_decoder", False):
        refuse(model, "an encoder and a decoder", "a decoder-only model")
    if any(getattr(a, "is_kv_shared_layer", False) for a in attention):
        refuse(model, "layers that share the keys of others", "keys and values of each layer's own")
    if dtype not in _DTYPES:
        refuse(model, f"keys of {dtype}", "float32, float16 or bfloat16")
    scales = {scaling(model, a) for a in attention}
    caps = {softcap(model, a) for a in attention}
    if len(scales) > 1 or len(caps) > 1:
        refuse(model, f"scales {sorted(scales)} and softcaps {sorted(caps)}", "one for all layers")
    sets, chosen, _ = rope(model, attention)
    own_sinks = sinks(attention)
    return {
        "family": str(getattr(config, "model_type", type(model).__name__)),
        "name": str(getattr(config, "_name_or_path", "") or type(model).__name__),
        "layers": len(attention),
        "query_heads": int(config.num_attention_heads),
        "kv_heads": int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads),
        "head_dim": head_dim(model, attention[0]),
        "hidden": int(config.hidden_size),
        "intermediate": int(getattr(config, "intermediate_size", None) or 0),
        "vocab": int(config.vocab_size),
        "max_positions": int(getattr(config, "max_position_embeddings", None) or 0),
        "dtype": _DTYPES[dtype],
        "scale": scales.pop(),
        "softcap": caps.pop(),
        "rope": sets,
        "layer": [{"window": window(model, a, i), "rope_set": chosen[i]} for i, a in enumerate(attention)],
        "sinks": [float(x) for s in own_sinks for x in s] if own_sinks else [],
        "model_hash": "",
    }


def vocabulary_bytes(tokenizer, vocab):
    """The bytes of every token: byte-level vocabularies through their alphabet, others through ▁ and <0xNN>."""
    byte_level = "ByteLevel" in str(type(getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None))) or \
        "ByteLevel" in repr(getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", ""))
    printable = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    alphabet = {chr(b): b for b in printable}
    alphabet.update({chr(256 + i): b for i, b in enumerate(b for b in range(256) if b not in printable)})
    special = set(getattr(tokenizer, "all_special_tokens", []))
    texts = []
    for token in tokenizer.convert_ids_to_tokens(list(range(min(vocab, len(tokenizer))))):
        if token is None:
            texts.append(b"")
        elif token in special:
            texts.append(token.encode())
        elif byte_level and all(ch in alphabet for ch in token):
            texts.append(bytes(alphabet[ch] for ch in token))
        elif len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            texts.append(bytes([int(token[3:5], 16)]))
        else:
            texts.append(token.replace("▁", " ").encode())
    return texts
