#!/usr/bin/env python3
"""What further methods of NVIDIA/kvpress keep: makes kept_extra_tiny-3m.h5.

Needs kvpress 0.5.4 and its PyTorch and transformers (pip install kvpress==0.5.4); run from the repository root:
    python3 tests/golden/make_kept_extra.py
Layout: `ids`; <method>/<removed>/L<l> uint8 [Hk, T], 1 = kept.
Random sketches are switched off. float32 on the CPU.
"""
import os

import h5py
import kvpress
import numpy as np
import torch
from kvpress.presses.leverage_press import LeverageScorePress
from kvpress.presses.non_causal_attention_press import NonCausalAttnPress
from transformers import AutoModelForCausalLM, DynamicCache

HERE = os.path.dirname(os.path.abspath(__file__))
MODEL = os.path.join(HERE, "..", "..", "traces", "examples", "tiny-3m")
RATIOS = [0.5, 0.8, 0.95]


def exact_leverage(key_states, sketch_dimension):
    x = (key_states - key_states.mean(dim=-2, keepdim=True)).to(torch.float32)
    gram = x.transpose(-2, -1) @ x
    lower = LeverageScorePress.chol_with_jitter(0.5 * (gram + gram.transpose(-2, -1)), jitter=1e-2, max_tries=5)
    solved = torch.cholesky_solve(x.transpose(-2, -1), lower)
    return (x * solved.transpose(-2, -1)).sum(dim=-1).clamp_min(0)


LeverageScorePress.compute_leverage_scores = staticmethod(exact_leverage)


def fresh(model):
    for layer in model.model.layers:
        layer.self_attn.masked_key_indices = None


def kept_of(model, cache, full):
    """[L][Hk, T]: masks where there are some, else found by comparing keys."""
    out = []
    for number, layer in enumerate(full.layers):
        whole = layer.keys
        part = cache.layers[number].keys
        heads, tokens = whole.shape[1], whole.shape[2]
        kept = np.zeros((heads, tokens), np.uint8)
        masked = model.model.layers[number].self_attn.masked_key_indices
        if masked is not None:
            kept[:] = 1
            kept[np.asarray(masked[1]), np.asarray(masked[2])] = 0
        else:
            for head in range(heads):
                distance = torch.cdist(part[0, head], whole[0, head], compute_mode="donot_use_mm_for_euclid_dist")
                assert distance.min(dim=1).values.max() < 1e-3, number
                kept[head, distance.argmin(dim=1).numpy()] = 1
                assert kept[head].sum() == part.shape[2], number
        out.append(kept)
    return out


def main():
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32, attn_implementation="sdpa").eval()
    with h5py.File(os.path.join(HERE, "kept_tiny-3m.h5")) as known:
        ids = torch.tensor(known["ids"][:], dtype=torch.long).reshape(1, -1)
    out = h5py.File(os.path.join(HERE, "kept_extra_tiny-3m.h5"), "w")
    out["ids"] = ids[0].numpy().astype(np.int32)
    full = DynamicCache()
    with torch.no_grad():
        model(ids, past_key_values=full)

    def prefill(name, make, ratio):
        press = make()
        press.compression_ratio = ratio
        fresh(model)
        cache = DynamicCache()
        with torch.no_grad(), press(model):
            model.model(input_ids=ids, past_key_values=cache)
        kept = kept_of(model, cache, full)
        for number, mask in enumerate(kept):
            out.create_dataset(f"{name}/{ratio}/L{number}", data=mask, compression="gzip")
        print(name, ratio, [m.sum(axis=1).tolist() for m in kept][:2])

    one = {
        "leverage": lambda: kvpress.LeverageScorePress(),
        "non_causal": lambda: kvpress.NonCausalAttnPress(chunk_size=256),
        "non_causal_padded": lambda: kvpress.NonCausalAttnPress(chunk_size=300),
        "compactor": lambda: kvpress.CompactorPress(),
        "block": lambda: kvpress.BlockPress(kvpress.KeyDiffPress(), block_size=128),
        "chunk": lambda: kvpress.ChunkPress(kvpress.KeyDiffPress(), chunk_length=300),
    }
    for name, make in one.items():
        for ratio in RATIOS:
            prefill(name, make, ratio)
    out.close()


if __name__ == "__main__":
    main()
