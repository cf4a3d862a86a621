#!/usr/bin/env python3
"""What recording costs a Transformers model of the Llama-3.1-8B shape (random weights, bf16, SDPA): prefill and decode
with and without the hook, interleaved in one run.

  hook_overhead.py LIBRARY FOLDER [tokens=32768] [steps=256] [repeats=3] [layers=32]

KVGRIND_PROFILE=1: after the measurement, the profilers' tables of 20 decode steps without and with recording.
"""
import os
import statistics
import sys
import time

import torch

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../../traces/python"))
import kvgrind  # noqa: E402
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache  # noqa: E402

library, folder = sys.argv[1], sys.argv[2]
given = [int(x) for x in sys.argv[3:]]
tokens, steps, repeats, layers = (given + [32768, 256, 3, 32][len(given):])[:4]
os.makedirs(folder, exist_ok=True)


def make_model():
    config = AutoConfig.for_model(
        "llama", hidden_size=4096, intermediate_size=14336, num_hidden_layers=layers, num_attention_heads=32,
        num_key_value_heads=8, vocab_size=128256, max_position_embeddings=131072, rope_theta=500000.0,
        tie_word_embeddings=False)
    with torch.device("cuda"):
        torch.set_default_dtype(torch.bfloat16)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
        torch.set_default_dtype(torch.float32)
    return model.to("cuda", torch.bfloat16).eval()


def prefill(model, ids):
    cache = DynamicCache()
    out = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return cache, out.logits[:, -1:].argmax(-1)


def decode(model, cache, token, count, each=None):
    """`each` gets the seconds of every step as the host sees it, without waiting for the device."""
    for _ in range(count):
        start = time.perf_counter()
        out = model(token, past_key_values=cache, use_cache=True)
        token = out.logits[:, -1:].argmax(-1)
        if each is not None:
            each.append(time.perf_counter() - start)
    return token


def run(model, ids, drained=None):
    """With `drained`, decode begins when the writer of that recording has taken all of the prefill. (ms of prefill, ms of a decode step, ms of the median step on the host, the last token)"""
    each = []
    torch.cuda.synchronize()
    start = time.perf_counter()
    cache, token = prefill(model, ids)
    torch.cuda.synchronize()
    first = time.perf_counter() - start
    if drained is not None:
        drained.recorder.call("kvg_drain")
    start = time.perf_counter()
    token = decode(model, cache, token, steps, each)
    torch.cuda.synchronize()
    whole = time.perf_counter() - start
    return 1e3 * first, 1e3 * whole / steps, 1e3 * statistics.median(each), int(token)


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def record(model, path):
    return kvgrind.record(model, path, library=library, force=True, fsync="never", queries="sample",
                          spool_bytes=8 << 30, expected_tokens=tokens + steps, steps=64)


def profiled(model, ids, what):
    from torch.profiler import ProfilerActivity, profile
    cache, token = prefill(model, ids)
    token = decode(model, cache, token, 50)  # so that one of the 20 steps hands over a block of 64
    name = "20 decode steps"
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        token = decode(model, cache, token, 20)
        torch.cuda.synchronize()
    rows = [(e.key, e.count, getattr(e, "self_device_time_total", 0) / 1e3, e.self_cpu_time_total / 1e3)
            for e in seen.key_averages()]
    for order, kind in ((2, "device"), (3, "CPU")):
        print(f"-- {what}, {name}: by {kind} time, all {sum(r[order] for r in rows):.1f} ms")
        for row in sorted(rows, key=lambda r: -r[order])[:12]:
            print(f"   {row[0][:76]:76s} {row[1]:6d} x  device {row[2]:9.2f} ms  CPU {row[3]:9.2f} ms")
    import cProfile
    import pstats
    calls = cProfile.Profile()
    calls.runcall(decode, model, cache, token, 20)
    print(f"-- {what}, 20 more steps: functions of Python by own time")
    stats = sorted(pstats.Stats(calls).stats.items(), key=lambda item: -item[1][2])
    for (file, line, function), (_, count, own, whole, _) in stats[:16]:
        print(f"   {os.path.basename(file)}:{line} {function[:44]:44s} {count:7d} x {1e3 * own:8.2f} ms own {1e3 * whole:8.2f}")


def main():
    torch.manual_seed(0)
    model = make_model()
    ids = torch.randint(0, 128000, (1, tokens), device="cuda")
    print(f"{os.cpu_count()} CPUs, of them usable {len(os.sched_getaffinity(0))}, load {os.getloadavg()[0]:.1f}")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {layers} layers, {tokens} tokens, {steps} steps")
    plain, recorded, closing = [], [], []
    with torch.no_grad():
        path = os.path.join(folder, "hook.kvt")
        # Once each unmeasured: cuDNN plans every length of keys anew, with LSE and without.
        run(model, ids)
        with record(model, path):
            warm = run(model, ids)
        print(f"  recorded for the first time: prefill {warm[0]:.1f} ms, step {warm[1]:.2f} ms", flush=True)
        for repeat in range(repeats):
            plain.append(run(model, ids))
            torch.cuda.synchronize()
            start = time.perf_counter()
            recording = record(model, path)
            with recording:
                entered = 1e3 * (time.perf_counter() - start)
                recorded.append(run(model, ids))
                status = recording.status()
                writer = cpu_seconds(status["writer_pid"])
                start = time.perf_counter()
            closing.append(1e3 * (time.perf_counter() - start))
            if recording.failed:
                raise SystemExit(f"recording failed: {recording.failed}")
            size = os.path.getsize(path)
            a, b = plain[-1], recorded[-1]
            print(f"  repeat {repeat}: prefill {a[0]:.1f} / {b[0]:.1f} ms, step {a[1]:.2f} / {b[1]:.2f} ms (host's median "
                  f"{a[2]:.2f} / {b[2]:.2f}), same token {a[3] == b[3]}, entered in {entered:.0f} ms, closed after "
                  f"{closing[-1]:.0f} ms, {size / 1e9:.2f} GB, spool peak {status['peak_bytes'] / 1e9:.2f} GB, "
                  f"waits {status['waits']}, writer {writer:.1f} s of CPU until then", flush=True)
            os.remove(path)  # what the system still has to write of it must not slow the next run
            os.sync()
        with record(model, path) as recording:
            late = run(model, ids, recording)
        print(f"decode step, recorded, the writer having taken the prefill before: {late[1]:.2f} ms (host's median {late[2]:.2f})")
    for name, i in (("prefill", 0), ("decode step", 1), ("decode step, the host's median", 2)):
        a, b = statistics.median(x[i] for x in plain), statistics.median(x[i] for x in recorded)
        print(f"{name}: {a:.3f} ms without, {b:.3f} ms with: x {b / a:.4f}")
    with kvgrind.Trace(path) as trace:
        print(f"{trace.state}, {trace.sequences[0]['tokens']} tokens, absent: {trace.not_recorded}")
    print(f"LSE from the model's own attention: {recording.fused and sorted(recording.trusted)}")
    if os.environ.get("KVGRIND_PROFILE"):
        with torch.no_grad():
            profiled(model, ids, "without recording")
            with record(model, path):
                profiled(model, ids, "recorded")
    os.remove(path)


if __name__ == "__main__":
    main()
