"""What a recording's file is opened with: plan, vocabulary, output projection."""
import ctypes as c
import json
import sys

import torch

import kvgrind_card as cards
from kvgrind_tensors import KINDS


def open_file(r, sequences, dtype):
    """Sends what the writer makes the file from; `r` is the Recording, dtype that of its keys."""
    r.card["dtype"] = cards._DTYPES.get(dtype) or cards.refuse(r.model, f"keys of {dtype}", "f32, f16 or bf16")
    if not r.expected:
        send_output_projection(r, sum(s["tokens"] + s["decode"] for s in sequences))
    provenance = {"source": "PyTorch hook", "torch": torch.__version__, "device": str(r.device),
                  "attention": sorted({backend for _, backend in r.before}), "pressure": r.pressure,
                  "steps": r.steps} | r.provenance
    if r.device.type == "cuda" and r.generating:
        provenance["generate"] = "not compiled by Transformers"
    if not r.options["anonymous"]:
        provenance.setdefault("command", " ".join(sys.argv))
    plan = {"card": r.card, "sequences": sequences, "spare_sequences": max(0, r.spare - len(sequences)),
            "options": r.options, "provenance": provenance}
    r.recorder.call("kvg_open", r.path.encode(), json.dumps(plan).encode())
    if r.device.type != "cpu" and not r.statistics:
        r.remarks.append("column sums, maps, query statistics: statistics=False")


def send_texts(r):
    if r.tokenizer is None:
        return
    texts = cards.vocabulary_bytes(r.tokenizer, r.card["vocab"])
    ends, at = (c.c_int64 * len(texts))(), 0
    for i, text in enumerate(texts):
        at += len(text)
        ends[i] = at
    r.recorder.call("kvg_token_text", b"".join(texts), ends, len(texts))


def send_output_projection(r, tokens):
    """W_O of all layers, where it is at most 5 % of the file of so many tokens: the writer's own rule."""
    r.options["output_projection"] = r.want_w_o and _output_projection(r, tokens)


def _output_projection(r, tokens):
    """Whether it is asked for; if it is but is not sent, the writer says so in the file."""
    projections = [cards.output_projection(a) for a in r.attention]
    width = r.card["query_heads"] * r.card["head_dim"]
    if any(p.bias is not None for p in projections):
        r.remarks.append("output projection: the model's has a bias, which a trace does not store")
    if any(tuple(p.weight.shape) != (r.card["hidden"], width) or p.weight.dtype not in KINDS for p in projections):
        return False
    element = 4 if r.card["dtype"] == "f32" else 2
    weights = len(projections) * r.card["hidden"] * width * element
    row = len(projections) * element * (2 * r.card["kv_heads"] * r.card["head_dim"])
    if weights > (tokens * (row + len(projections) * element * width) + weights) / 20:
        return True
    for layer, p in enumerate(projections):
        weight = p.weight.detach().cpu().contiguous()
        r.recorder.call("kvg_output_projection", layer, weight.data_ptr(), weight.shape[0], weight.shape[1],
                       KINDS[weight.dtype])
    return True
