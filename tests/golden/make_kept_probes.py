#!/usr/bin/env python3
"""What KVzip and KVCompose of NVIDIA/kvpress keep: makes kept_probes_tiny-3m.h5.

Needs kvpress 0.5.4 and its PyTorch and transformers (pip install kvpress==0.5.4); run from the repository root:
    python3 tests/golden/make_kept_probes.py
Layout: `ids` (of kept_tiny-3m.h5, cut); <method>/<removed>/L<l> uint8 [Hk, T], 1 = kept. Parts of 2048 and, for
kvzip_parts, of 200 tokens. float32 on the CPU.
"""
import os

import h5py
import kvpress
import numpy as np
import torch
from transformers import AutoModelForCausalLM, DynamicCache

HERE = os.path.dirname(os.path.abspath(__file__))
MODEL = os.path.join(HERE, "..", "..", "traces", "examples", "tiny-3m")
RATIOS = [0.5, 0.8, 0.95]
TOKENS = 512


class InParts(kvpress.KVzipPress):
    def prepare(self, model, tokenizer, chunk_size=2048, prev_postfix_size=8):
        return super().prepare(model, tokenizer, 200, prev_postfix_size)


def masked(model, number, heads, tokens):
    kept = np.ones((heads, tokens), np.uint8)
    _, head, token = model.model.layers[number].self_attn.masked_key_indices
    kept[np.asarray(head), np.asarray(token)] = 0
    return kept


def found(part, whole):
    """Which of the whole cache's keys [heads, T, D] are in the part."""
    kept = np.zeros(whole.shape[:2], np.uint8)
    for head in range(whole.shape[0]):
        distance = torch.cdist(part[head], whole[head], compute_mode="donot_use_mm_for_euclid_dist")
        assert distance.min(dim=1).values.max() < 1e-3
        kept[head, distance.argmin(dim=1).numpy()] = 1
        assert kept[head].sum() == part.shape[1]
    return kept


def main():
    torch.manual_seed(0)
    load = lambda how: AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32, attn_implementation=how).eval()
    with h5py.File(os.path.join(HERE, "kept_tiny-3m.h5")) as known:
        ids = torch.tensor(known["ids"][:TOKENS], dtype=torch.long).reshape(1, -1)
    out = h5py.File(os.path.join(HERE, "kept_probes_tiny-3m.h5"), "w")
    out["ids"] = ids[0].numpy().astype(np.int32)
    sdpa, eager = load("sdpa"), load("eager")
    full = DynamicCache()
    with torch.no_grad():
        sdpa(ids, past_key_values=full)
    heads = full.layers[0].keys.shape[1]

    def write(name, ratio, kept):
        for number, mask in enumerate(kept):
            out.create_dataset(f"{name}/{ratio}/L{number}", data=mask, compression="gzip")
        print(name, ratio, [m.sum(axis=1).tolist() for m in kept])

    makers = {
        "kvzip": lambda r: kvpress.KVzipPress(compression_ratio=r),
        "kvzip_parts": lambda r: InParts(compression_ratio=r),
        "kvzip_layer": lambda r: kvpress.KVzipPress(compression_ratio=r, layerwise=True),
        "kvzip_plus": lambda r: kvpress.KVzipPress(compression_ratio=r, kvzip_plus_normalization=True),
    }
    for name, make in makers.items():
        for ratio in RATIOS:
            for layer in sdpa.model.layers:
                layer.self_attn.masked_key_indices = None
                layer.self_attn.num_key_value_groups = sdpa.config.num_attention_heads // heads
            cache = DynamicCache()
            with torch.no_grad(), make(ratio)(sdpa):
                sdpa.model(input_ids=ids, past_key_values=cache)
            write(name, ratio, [masked(sdpa, n, heads, ids.shape[1]) for n in range(len(full.layers))])
    for name, structured in (("kvcompose", True), ("kvcompose_free", False)):
        for ratio in RATIOS:
            cache = DynamicCache()
            with torch.no_grad(), kvpress.KVComposePress(compression_ratio=ratio, structured=structured)(eager):
                eager.model(input_ids=ids, past_key_values=cache)
            if structured:
                kept = [found(cache.layers[n].keys[0], full.layers[n].keys[0]) for n in range(len(full.layers))]
            else:
                kept = [masked(eager, n, heads, ids.shape[1]) for n in range(len(full.layers))]
            write(name, ratio, kept)
    out.close()


if __name__ == "__main__":
    main()
