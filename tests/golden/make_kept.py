#!/usr/bin/env python3
"""Which tokens NVIDIA/kvpress keeps: makes kept_more_tiny-3m.h5.

Needs kvpress 0.5.4 and its PyTorch and transformers (pip install kvpress==0.5.4); run from the repository root:
    python3 tests/golden/make_kept.py
Layout as kept_tiny-3m.h5: `ids`, and <method>/<removed>/L<l> uint8 [Hk, T], 1 = kept. float32 on the CPU. Kept slots are
found by comparing the compressed cache's keys with the full cache's; head-wise masks are read from the modules.
"""
import os

import h5py
import kvpress
import numpy as np
import torch
from kvpress.presses.cap_press import CapPress
from transformers import AutoModelForCausalLM, DynamicCache

HERE = os.path.dirname(os.path.abspath(__file__))
MODEL = os.path.join(HERE, "..", "..", "traces", "examples", "tiny-3m")
RATIOS = [0.5, 0.8, 0.95]


def snap():
    return kvpress.SnapKVPress(window_size=32, kernel_size=5)


METHODS = {
    "keydiff": lambda: kvpress.KeyDiffPress(),
    "lagkv": lambda: kvpress.LagKVPress(n_sink=4, lag_size=128),
    "pyramidkv": lambda: kvpress.PyramidKVPress(window_size=32, kernel_size=5, beta=20),
    "chunkkv": lambda: kvpress.ChunkKVPress(press=snap(), chunk_length=20),
    "criticalkv": lambda: kvpress.CriticalKVPress(press=snap()),
    "adakv": lambda: kvpress.AdaKVPress(press=snap(), alpha_safeguard=0.2),
    "critical_adakv": lambda: kvpress.CriticalAdaKVPress(press=snap(), alpha_safeguard=0.2),
    "cur": lambda: kvpress.CURPress(num_sinks=4, use_random_leverage=False),
    "cap": lambda: CapPress(),
    "expected_ada": lambda: kvpress.AdaKVPress(press=kvpress.ExpectedAttentionPress(epsilon=1e-2), alpha_safeguard=0.2),
    
}


def cache_layers(cache):
    return [(layer.keys, layer.values) for layer in cache.layers]


def main():
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32, attn_implementation="sdpa").eval()
    with h5py.File(os.path.join(HERE, "kept_tiny-3m.h5")) as known:
        ids = torch.tensor(known["ids"][:], dtype=torch.long).reshape(1, -1)
    full = DynamicCache()
    with torch.no_grad():
        model(ids, past_key_values=full)
    layers = cache_layers(full)
    out = h5py.File(os.path.join(HERE, "kept_more_tiny-3m.h5"), "w")
    out["ids"] = ids[0].numpy().astype(np.int32)
    for name, make in METHODS.items():
        for ratio in RATIOS:
            press = make()
            press.compression_ratio = ratio
            for layer in model.model.layers:
                layer.self_attn.masked_key_indices = None
            cache = DynamicCache()
            with torch.no_grad(), press(model):
                model(ids, past_key_values=cache)
            for number, ((keys, _), (all_keys, _)) in enumerate(zip(cache_layers(cache), layers)):
                heads, tokens = all_keys.shape[1], all_keys.shape[2]
                kept = np.zeros((heads, tokens), np.uint8)
                masked = model.model.layers[number].self_attn.masked_key_indices
                if masked is not None:
                    kept[:] = 1
                    kept[masked[1].numpy(), masked[2].numpy()] = 0
                else:
                    for head in range(heads):
                        distance = torch.cdist(keys[0, head], all_keys[0, head], compute_mode="donot_use_mm_for_euclid_dist")
                        found = distance.argmin(dim=1)
                        assert distance.min(dim=1).values.max() < 1e-3, (name, number)
                        kept[head, found.numpy()] = 1
                        assert kept[head].sum() == keys.shape[2], (name, number)
                out.create_dataset(f"{name}/{ratio}/L{number}", data=kept, compression="gzip")
            print(name, ratio, kept.sum(axis=1))
    out.close()


if __name__ == "__main__":
    main()
