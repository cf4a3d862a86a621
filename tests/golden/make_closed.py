#!/usr/bin/env python3
"""What a model answers when NVIDIA/kvpress compresses its cache: makes closed_more_tiny-3m.json and closed_lab-23m.json.

Needs kvpress 0.5.4 and its PyTorch and transformers (pip install kvpress==0.5.4); from the repository root:
    python3 tests/golden/make_closed.py traces/examples/tiny-3m 1024 6 tests/golden/closed_more_tiny-3m.json \
        keydiff,pyramidkv,chunkkv,criticalkv,adakv,critical_adakv,cur,cap
    python3 tests/golden/make_closed.py LAB_MODEL 4096 3 tests/golden/closed_lab-23m.json \
        none,knorm,tova,streamingllm,expected,snapkv,keydiff,pyramidkv,criticalkv,adakv
The contexts of closed_loop_tiny-3m.json, lengthened by prose behind their first token; compressed before the question;
question and answer fed token by token at their true positions, each question on its own copy of the compressed cache.
float32 on the CPU. For closed_loop_tiny-3m.json's own methods the rows come out as those of that file.
"""
import copy
import json
import os
import sys

import kvpress
import torch
from kvpress.presses.cap_press import CapPress
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

HERE = os.path.dirname(os.path.abspath(__file__))
PROSE = os.path.join(HERE, "..", "..", "traces", "examples", "prompts", "adventures.txt")


def snap():
    return kvpress.SnapKVPress(window_size=32, kernel_size=5)


METHODS = {
    "none": None,
    "knorm": lambda: kvpress.KnormPress(),
    "tova": lambda: kvpress.TOVAPress(),
    "streamingllm": lambda: kvpress.StreamingLLMPress(n_sink=4),
    "expected": lambda: kvpress.ExpectedAttentionPress(
        n_future_positions=512, n_sink=4, use_covariance=True, use_vnorm=True, epsilon=0.0),
    "snapkv": snap,
    "keydiff": lambda: kvpress.KeyDiffPress(),
    "pyramidkv": lambda: kvpress.PyramidKVPress(window_size=32, kernel_size=5, beta=20),
    "chunkkv": lambda: kvpress.ChunkKVPress(press=snap(), chunk_length=20),
    "criticalkv": lambda: kvpress.CriticalKVPress(press=snap()),
    "adakv": lambda: kvpress.AdaKVPress(press=snap(), alpha_safeguard=0.2),
    "critical_adakv": lambda: kvpress.CriticalAdaKVPress(press=snap(), alpha_safeguard=0.2),
    "cur": lambda: kvpress.CURPress(num_sinks=4, use_random_leverage=False),
    "cap": lambda: CapPress(),
}


def lengthened(prompt, prose, length):
    out = copy.deepcopy(prompt)
    pad = length - len(prompt["ids"])
    out["ids"] = prompt["ids"][:1] + prose[:pad] + prompt["ids"][1:]
    out["spans"] = [[a + pad, b + pad] for a, b in prompt["spans"]]
    for question in out["qa"]:
        question["needle"] = [x + pad for x in question["needle"]]
    return out


def masked(model, masks):
    """Head-wise presses leave masks on the modules; they are consumed by each forward pass."""
    for layer, mask in zip(model.model.layers, masks):
        layer.self_attn.masked_key_indices = mask


def answer(model, compressed, masks, length, question):
    """(right tokens, sum of −log p) of one answer, on a copy of the compressed cache."""
    cache = copy.deepcopy(compressed)
    logits = []
    for j, token in enumerate(question["q"] + question["a"]):
        masked(model, masks)
        with torch.no_grad():
            out = model(torch.tensor([[token]]), past_key_values=cache, position_ids=torch.tensor([[length + j]]))
        logits.append(torch.log_softmax(out.logits[0, -1].double(), -1))
    asked = len(question["q"])
    right = sum(int(logits[asked + j - 1].argmax()) == t for j, t in enumerate(question["a"]))
    return right, -sum(float(logits[asked + j - 1][t]) for j, t in enumerate(question["a"]))


def main():
    folder, length, count, out, names = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5]
    with open(os.path.join(HERE, "closed_loop_tiny-3m.json")) as f:
        known = json.load(f)["prompts"][:count]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").eval()
    with open(PROSE) as f:
        prose = AutoTokenizer.from_pretrained(folder)(f.read(), add_special_tokens=False).input_ids
    step = len(prose) // max(count, 1)
    prompts = [lengthened(p, prose[i * step:], length) for i, p in enumerate(known)]
    assert all(len(p["ids"]) == length for p in prompts)
    rows = []
    for name in names.split(","):
        for ratio in [0.0] if name == "none" else [0.5, 0.8, 0.95]:
            right = nll = n = 0
            for prompt in prompts:
                ids = torch.tensor(prompt["ids"])[None]
                masked(model, [None] * len(model.model.layers))
                cache = DynamicCache()
                with torch.no_grad():
                    if name == "none":
                        model(ids, past_key_values=cache)
                    else:
                        press = METHODS[name]()
                        press.compression_ratio = ratio
                        with press(model):
                            model(ids, past_key_values=cache)
                masks = [layer.self_attn.masked_key_indices for layer in model.model.layers]
                for question in prompt["qa"]:
                    r, loss = answer(model, cache, masks, length, question)
                    right, nll, n = right + r, nll + loss, n + len(question["a"])
            rows.append({"press": name, "ratio": ratio, "acc": round(right / n, 6), "nll": round(nll / n, 6), "n": n})
            print(rows[-1], flush=True)
    result = {"rows": rows} if length == len(known[0]["ids"]) else {"prompts": prompts, "rows": rows}
    with open(out, "w") as f:
        json.dump(result, f)
        f.write("\n")


if __name__ == "__main__":
    main()
