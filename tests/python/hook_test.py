"""The recording hook on real Transformers models: our own runtime's traces beside it, batches, chunks, caches, back
pressure, faults, families, torch.compile. Skips, visibly, where torch or transformers is missing (exit 77).

Environment: KVGRIND_SOURCE, KVGRIND_PROGRAM, KVGRIND_RECORD_LIBRARY; KVGRIND_TEST_DEVICE = cpu (default) or cuda.
"""
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import unittest
import warnings

try:
    import numpy as np
    import torch
    import transformers
    from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache
except ImportError as missing:
    print(f"SKIPPED: {missing}")
    sys.exit(77)

SOURCE = os.environ.get("KVGRIND_SOURCE", os.path.join(os.path.dirname(__file__), "../.."))
PROGRAM = os.environ.get("KVGRIND_PROGRAM", "kvgrind")
DEVICE = os.environ.get("KVGRIND_TEST_DEVICE", "cpu")
TINY = os.path.join(SOURCE, "traces/examples/tiny-3m")
sys.path.insert(0, os.path.join(SOURCE, "traces/python"))
import kvgrind  # noqa: E402
from kvgrind_capi import RecordError  # noqa: E402

MAJOR = int(transformers.__version__.split(".")[0])
torch.manual_seed(1)


def tiny(attention="sdpa", dtype=torch.float32):
    key = "dtype" if MAJOR >= 5 else "torch_dtype"
    return AutoModelForCausalLM.from_pretrained(TINY, attn_implementation=attention, **{key: dtype}).eval().to(DEVICE)


def ids_of(characters):
    from tokenizers import Tokenizer
    with open(os.path.join(SOURCE, "traces/examples/prompts/single.context.txt"), encoding="utf-8") as f:
        text = f.read()[:characters]
    return torch.tensor([Tokenizer.from_file(os.path.join(TINY, "tokenizer.json")).encode(text).ids], device=DEVICE)


def arrays(trace, sequence):
    card = trace.card
    out = {"tokens": trace.tokens(sequence), "nll": trace.nll(sequence), "hidden_norm": trace.hidden_norm(sequence),
           "attn_in_norm": trace.attn_in_norm(sequence)}
    out["k"] = np.stack([[trace.k(sequence, l, h) for h in range(card["kv_heads"])] for l in range(card["layers"])])
    out["v"] = np.stack([[trace.v(sequence, l, h) for h in range(card["kv_heads"])] for l in range(card["layers"])])
    out["q"] = np.stack([[trace.q(sequence, l, h)[1] for h in range(card["query_heads"])] for l in range(card["layers"])])
    out["lse"] = np.stack([trace.lse(sequence, l) for l in range(card["layers"])])
    sums = [trace.colsum(sequence, l) for l in range(card["layers"])]
    if all(s is not None for s in sums):
        out["colsum"] = np.stack(sums)
    return out


class Hook(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def path(self, name="a.kvt"):
        return os.path.join(self.folder.name, name)

    def record(self, model, name="a.kvt", **options):
        options = {"queries": "all", "steps": 16, "spool_bytes": 64 << 20, "reserve_bytes": 1 << 20} | options
        return kvgrind.record(model, self.path(name), **options)

    def check(self, name="a.kvt"):
        done = subprocess.run([PROGRAM, "check", "--deep", self.path(name)], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def equal(self, a, b, tolerance=1e-4, but=()):
        self.assertEqual(sorted(set(a) - set(but)), sorted(set(b) - set(but)))
        for name in a:
            if name in but:
                continue
            self.assertEqual(a[name].shape, b[name].shape, name)
            np.testing.assert_allclose(a[name], b[name], atol=tolerance * (10 if name == "colsum" else 1), rtol=tolerance,
                                       err_msg=name)

    def generate(self, model, ids, new, **options):
        with torch.no_grad():
            return model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False, **options)

    # -- tiny-3m beside our own runtime ---------------------------------------------------------------------------------

    def test_equals_our_runtime(self):
        ids = ids_of(900)
        with open(self.path("ids.json"), "w", encoding="utf-8") as f:
            json.dump([{"ids": ids[0].tolist(), "decode": 37}], f)
        subprocess.run([PROGRAM, "record", "--model", TINY, "--tokens", self.path("ids.json"), "-o", self.path("own.kvt"),
                        "--device", "cpu"], check=True, capture_output=True)
        for attention in ("eager", "sdpa"):
            with self.subTest(attention=attention):
                model = tiny(attention)
                with self.record(model, attention + ".kvt", statistics=True, queries="all", force=True) as r:
                    self.generate(model, ids, 37)
                self.assertIsNone(r.failed)
                self.check(attention + ".kvt")
                with kvgrind.Trace(self.path(attention + ".kvt")) as a, kvgrind.Trace(self.path("own.kvt")) as b:
                    self.assertEqual(a.segments(0), b.segments(0))
                    self.assertEqual(a.sequences[0]["next_token"], b.sequences[0]["next_token"])
                    x, y = arrays(a, 0), arrays(b, 0)
                    known = ~np.isnan(x["nll"])  # generate() gives the logits of the last prompt token alone
                    self.assertEqual(int(known.sum()), 37)
                    np.testing.assert_allclose(x["nll"][known], y["nll"][known], atol=1e-4)
                    self.equal(x, y, 1e-3, but=("nll",))
                    for key in ("layers", "query_heads", "kv_heads", "head_dim", "scale", "softcap", "layer", "hidden"):
                        self.assertEqual(a.card[key], b.card[key])
                    np.testing.assert_allclose(a.card["rope"][0]["inv_freq"], b.card["rope"][0]["inv_freq"], rtol=1e-6)
        done = subprocess.run([PROGRAM, "replay", self.path("sdpa.kvt"), "--policy", "snapkv", "--policy", "knorm",
                               "--policy", "h2o", "--budget", "0.3"],
                              capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_same_output_as_without(self):
        model, ids = tiny(), ids_of(400)
        before = self.generate(model, ids, 24)
        with self.record(model):
            within = self.generate(model, ids, 24)
        self.assertTrue(torch.equal(before, within))
        self.assertEqual(model.config._attn_implementation, "sdpa")
        self.assertTrue(torch.equal(before, self.generate(model, ids, 24)))
        for dtype in (torch.float32, torch.bfloat16):  # to the last bit, in prompts and in steps
            model = tiny(dtype=dtype)
            outputs = []
            for recorded in (False, True):
                cache = DynamicCache()
                with torch.no_grad(), self.record(model, force=True) if recorded else contextlib.nullcontext():
                    own = [model(ids, past_key_values=cache, use_cache=True).logits]
                    own += [model(ids[:, i:i + 1], past_key_values=cache, use_cache=True).logits for i in range(5)]
                outputs.append(torch.cat(own, dim=1))
            self.assertTrue(torch.equal(*outputs), dtype)

    # -- LSE from the model's own attention, queries kept as they are --------------------------------------------------

    def test_lse_of_the_kernel(self):
        """What SDPA gives is what a second pass computes; where it is not, the second pass is what the file has."""
        import kvgrind_sdpa
        model, ids = tiny(dtype=torch.bfloat16 if DEVICE == "cuda" else torch.float32), ids_of(400)
        call, told = kvgrind_sdpa.call, []

        def other(factor):
            def again(*arguments, **keywords):
                out, lse, kernel = call(*arguments, **keywords)
                told.append(lse is not None)
                return out, None if factor is None or lse is None else lse * factor, kernel
            return again

        traces = {}
        for name, factor in (("given", 1.0), ("none", None), ("wrong", 1.4427)):
            kvgrind_sdpa.call = other(factor)
            try:
                with self.record(model, name + ".kvt", statistics=False) as r:
                    self.generate(model, ids, 40)
            finally:
                kvgrind_sdpa.call = call
            self.assertIsNone(r.failed)
            self.assertEqual(bool(r.trusted), name == "given")
            self.assertEqual(r.fused, name != "wrong")
            with kvgrind.Trace(self.path(name + ".kvt")) as t:
                traces[name] = arrays(t, 0)
        self.assertTrue(all(told), "SDPA gave no LSE")
        tolerance = 5e-3 if DEVICE == "cuda" else 1e-4
        self.equal(traces["given"], traces["none"], tolerance)
        np.testing.assert_array_equal(traces["wrong"]["lse"], traces["none"]["lse"])

    def test_queries_written_over(self):
        """A model that reuses the memory of its queries after attention: they are copied."""
        model, ids = tiny(), ids_of(300)
        with self.record(model, "plain.kvt", statistics=False):
            self.generate(model, ids, 20)
        import kvgrind_attention
        before = kvgrind_attention.function_for("sdpa")

        def spoil(module, query, key, value, mask, **keywords):
            out = before(module, query, key, value, mask, **keywords)
            query.zero_()
            return out

        kvgrind_attention._functions["sdpa"] = spoil
        try:
            with self.record(model, "spoilt.kvt", statistics=False) as r:
                self.generate(model, ids, 20)
        finally:
            kvgrind_attention._functions["sdpa"] = before
        self.assertIsNone(r.failed)
        with kvgrind.Trace(self.path("plain.kvt")) as a, kvgrind.Trace(self.path("spoilt.kvt")) as b:
            self.equal(arrays(a, 0), arrays(b, 0), 1e-4)

    def test_norms(self):
        """Of what really enters layers and attentions; with a norm before attention one module tells both from the
        second pass on, without one (olmo2) hooks do."""
        for name in ("llama", "olmo2"):
            with self.subTest(family=name):
                model = self.family(name, num_key_value_heads=2, pad_token_id=0)
                shown, hooks = {}, []
                for l, layer in enumerate(model.model.layers):
                    for kind, module in (("hidden", layer), ("attn_in", layer.self_attn)):
                        def note(_, arguments, keywords, key=(kind, l)):
                            x = arguments[0] if arguments else keywords["hidden_states"]
                            shown.setdefault(key, []).append(torch.linalg.vector_norm(x[0].float(), dim=-1))
                        hooks.append(module.register_forward_pre_hook(note, with_kwargs=True))
                ids = torch.randint(3, 300, (1, 30), device=DEVICE)
                with torch.no_grad(), self.record(model, name + ".kvt", steps=4) as r:
                    cache = DynamicCache()
                    model(ids, past_key_values=cache, use_cache=True)
                    for i in range(9):
                        model(ids[:, i:i + 1], past_key_values=cache, use_cache=True)
                    self.assertEqual(bool(r.norms.hooks), name == "olmo2")
                for hook in hooks:
                    hook.remove()
                self.assertIsNone(r.failed)
                self.assertFalse(any("forward" in m.__dict__ for m in model.modules()))
                with kvgrind.Trace(self.path(name + ".kvt")) as t:
                    for kind, norms in (("hidden", t.hidden_norm(0)), ("attn_in", t.attn_in_norm(0))):
                        for l in range(4):
                            np.testing.assert_allclose(norms[:, l], torch.cat(shown[kind, l]).cpu().numpy(), rtol=1e-4)

    # -- how it is fed -----------------------------------------------------------------------------------------------------

    def test_batch_is_several_sequences(self):
        """Left padding in generate(): each row equals the same prompt alone."""
        model = tiny()
        prompts = [ids_of(700)[0], ids_of(300)[0], ids_of(500)[0]]
        width = max(len(p) for p in prompts)
        ids = torch.full((3, width), 2, device=DEVICE)
        mask = torch.zeros(3, width, dtype=torch.long, device=DEVICE)
        for i, p in enumerate(prompts):
            ids[i, width - len(p):], mask[i, width - len(p):] = p, 1
        with torch.no_grad(), self.record(model, statistics=True) as r:
            out = model.generate(ids, attention_mask=mask, max_new_tokens=21, do_sample=False)
        self.assertIsNone(r.failed)
        self.check()
        with self.record(model, "single.kvt", statistics=True):
            for p in prompts:
                self.generate(model, p[None], 21)
        self.check("single.kvt")
        with kvgrind.Trace(self.path()) as a, kvgrind.Trace(self.path("single.kvt")) as b:
            self.assertEqual(len(a.sequences), 3)
            for s in range(3):
                x, y = arrays(a, s), arrays(b, s)
                n = min(len(x["tokens"]), len(y["tokens"]))
                self.assertTrue((x["tokens"][:n] == y["tokens"][:n]).all())
                self.equal(x, y, 2e-3, but=("nll",))
                known = ~np.isnan(x["nll"]) & ~np.isnan(y["nll"])  # of generated tokens; generate() gives no others
                # The last row before another sequence is fed has none, and the file says so: prompt, block, end.
                self.assertGreaterEqual(int(known.sum()), 18)
                np.testing.assert_allclose(x["nll"][known], y["nll"][known], atol=2e-3)
            self.assertEqual(out.shape[0], 3)

    def test_end_of_text_ends_a_row(self):
        """A row that has ended is fed padding by generate(); the file does not have it."""
        model = tiny()
        ids = torch.cat([ids_of(300)[:, :40], ids_of(900)[:, 50:90]])
        free = self.generate(model, ids, 12)
        stop = int(free[0, 40 + 4])  # a token that row 0 says early
        with torch.no_grad(), self.record(model) as r:
            out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False,
                                 eos_token_id=stop, pad_token_id=2)
        self.assertIsNone(r.failed)
        with kvgrind.Trace(self.path()) as t:
            for s in range(2):
                said = out[s, 40:].tolist()
                length = said.index(stop) if stop in said else len(said) - 1
                self.assertEqual(t.sequences[s]["tokens"], 40 + length)
                self.assertEqual(t.tokens(s).tolist(), out[s, :40 + length].tolist())
                self.assertEqual(t.sequences[s]["next_token"], int(out[s, 40 + length]))

    def test_right_padding(self):
        model = tiny()
        whole = ids_of(500)
        ids = torch.cat([whole, whole])
        mask = torch.ones_like(ids)
        mask[1, 50:] = 0
        with torch.no_grad(), self.record(model) as r:
            model(ids, attention_mask=mask)
        self.assertIsNone(r.failed)
        self.check()
        with kvgrind.Trace(self.path()) as t:
            self.assertEqual([s["tokens"] for s in t.sequences], [ids.shape[1], 50])
            np.testing.assert_allclose(t.lse(1, 3), t.lse(0, 3)[:50], atol=1e-4)

    def test_chunks_equal_the_whole(self):
        model, ids = tiny(), ids_of(900)
        with torch.no_grad():
            with self.record(model, "whole.kvt", statistics=False):
                model(ids)
            with self.record(model, "chunks.kvt", statistics=False) as r:
                cache = DynamicCache()
                for at in range(0, ids.shape[1], 100):
                    model(ids[:, at:at + 100], past_key_values=cache, use_cache=True)
        self.assertIsNone(r.failed)
        self.check("chunks.kvt")
        with kvgrind.Trace(self.path("whole.kvt")) as a, kvgrind.Trace(self.path("chunks.kvt")) as b:
            self.assertEqual(a.segments(0), b.segments(0))
            self.equal(arrays(a, 0), arrays(b, 0), 1e-3)

    def test_static_cache(self):
        model, ids = tiny(), ids_of(300)
        with self.record(model, "dynamic.kvt", statistics=False):
            self.generate(model, ids, 40)
        with self.record(model, "static.kvt", statistics=False) as r:
            self.generate(model, ids, 40, cache_implementation="static")
        self.assertIsNone(r.failed)
        self.check("static.kvt")
        with kvgrind.Trace(self.path("dynamic.kvt")) as a, kvgrind.Trace(self.path("static.kvt")) as b:
            self.equal(arrays(a, 0), arrays(b, 0), 1e-3)

    def test_several_prompts_one_file(self):
        model = tiny()
        with self.record(model, sequences=3) as r:
            r.coming([[("context", 0, 60), ("question", 60, 80)]])
            self.generate(model, ids_of(900)[:, :80], 5)
            self.generate(model, ids_of(900)[:, 100:150], 5)
        self.assertIsNone(r.failed)
        self.check()
        with kvgrind.Trace(self.path()) as t:
            self.assertEqual(len(t.sequences), 2)
            self.assertEqual(t.segments(0), [("context", 0, 60), ("question", 60, 80), ("generated", 80, 84)])
            self.assertEqual(t.state, "complete")

    # -- families ----------------------------------------------------------------------------------------------------------

    FAMILIES = {
        "llama": dict(num_key_value_heads=2, rope_theta=5e5), "qwen2": dict(num_key_value_heads=2),
        "qwen3": dict(num_key_value_heads=2, head_dim=24),
        "mistral": dict(num_key_value_heads=2, sliding_window=40),
        "gemma": dict(num_key_value_heads=1, head_dim=24),
        "gemma2": dict(num_key_value_heads=2, head_dim=16, sliding_window=40, attn_logit_softcapping=5.0,
                       query_pre_attn_scalar=20, _attn="eager"),
        "gemma3_text": dict(num_key_value_heads=2, head_dim=16, sliding_window=40),
        "phi": dict(partial_rotary_factor=0.5), "phi3": dict(num_key_value_heads=2, pad_token_id=0),
        "smollm3": dict(num_key_value_heads=2, pad_token_id=0),
    }

    def family(self, name, **more):
        options = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=4, num_attention_heads=4, vocab_size=300,
                       max_position_embeddings=512) | self.FAMILIES.get(name, {}) | more
        attention = options.pop("_attn", "sdpa")
        config = AutoConfig.for_model(name, **options)
        return AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval().to(DEVICE)

    def test_families(self):
        """Random weights: the attention that the file describes (scale, softcap, windows, sinks) is the model's, for the
        sum of every recorded row is 1 and the model's own attention rows are exp(logit − LSE)."""
        for name in self.FAMILIES:
            with self.subTest(family=name):
                try:
                    model = self.family(name)
                except ValueError as unknown:
                    print(f"SKIPPED {name}: {str(unknown)[:80]}")
                    continue
                ids = torch.randint(3, 300, (1, 90), device=DEVICE)
                with self.record(model, name + ".kvt", statistics=True, steps=8) as r:
                    self.generate(model, ids, 21, eos_token_id=None, pad_token_id=0)
                self.assertIsNone(r.failed, name)
                self.check(name + ".kvt")
                with kvgrind.Trace(self.path(name + ".kvt")) as t, torch.no_grad():
                    tokens = torch.tensor(t.tokens(0)[None].astype(np.int64), device=DEVICE)
                    self.assertEqual(tokens.shape[1], 110)
                    model.config._attn_implementation = "eager"
                    rows = model(tokens, output_attentions=True).attentions
                    card = t.card
                    for l in range(card["layers"]):
                        window = card["layer"][l]["window"]
                        for h in range(card["query_heads"]):
                            k = t.k(0, l, h * card["kv_heads"] // card["query_heads"])
                            logits = card["scale"] * t.q(0, l, h)[1] @ k.T
                            if card["softcap"]:
                                logits = card["softcap"] * np.tanh(logits / card["softcap"])
                            i, j = np.indices(logits.shape)
                            seen = (j <= i) & ((i - j < window) if window else True)
                            p = np.where(seen, np.exp(logits - t.lse(0, l)[:, h:h + 1]), 0)
                            np.testing.assert_allclose(p, rows[l][0, h].float().cpu().numpy(), atol=2e-4,
                                                       err_msg=f"{name} layer {l} head {h}")

    def test_refusals(self):
        for name, words in (("cohere", "interleaved"), ("glm", "interleaved")):
            with self.subTest(family=name):
                try:
                    model = self.family(name, num_key_value_heads=2, pad_token_id=0, head_dim=16)
                except ValueError:
                    continue
                with self.assertRaisesRegex(RecordError, words):
                    self.record(model)
        model = tiny()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with self.record(model):
                with self.assertRaisesRegex(RecordError, "beams"):
                    self.generate(model, ids_of(100), 4, num_beams=2)
                self.generate(model, ids_of(100), 4)
            with self.record(model, "cropped.kvt", force=True) as r, torch.no_grad():
                cache = DynamicCache()
                model(ids_of(300), past_key_values=cache, use_cache=True)
                cache.crop(40 - int(cache.get_seq_length()) if MAJOR >= 5 else 40)
                model(ids_of(300)[:, 40:60], past_key_values=cache, use_cache=True)
            self.assertRegex(str(r.failed), "cropped")

    # -- back pressure and faults --------------------------------------------------------------------------------------

    def stopped(self, recording, seconds, work):
        """Runs `work` while the writer process stands still for a while."""
        pid = recording.status()["writer_pid"]
        os.kill(pid, signal.SIGSTOP)
        resume = subprocess.Popen([sys.executable, "-c", f"import os, time; time.sleep({seconds}); os.kill({pid}, {signal.SIGCONT:d})"])
        try:
            return work()
        finally:
            resume.wait()

    def test_pressure(self):
        model, ids = tiny(), ids_of(300)
        with self.record(model, "plain.kvt", statistics=False, steps=8):
            self.generate(model, ids, 300)
        with kvgrind.Trace(self.path("plain.kvt")) as t:
            plain = arrays(t, 0)
        for pressure in ("block", "drop", "shrink"):
            with self.subTest(pressure=pressure):
                with self.record(model, pressure + ".kvt", statistics=False, pressure=pressure, steps=8, logits=False,
                                 spool_bytes=1 << 20) as r:
                    self.generate(model, ids, 2)
                    r.recorder.call("kvg_drain")
                    out = self.stopped(r, 3, lambda: self.generate(model, ids, 300))
                    status = r.status()
                self.assertIsNone(r.failed)
                self.assertEqual(out.shape[1], ids.shape[1] + 300)
                self.check_structure(pressure + ".kvt")
                with kvgrind.Trace(self.path(pressure + ".kvt")) as t:
                    text = " ".join(t.not_recorded)
                    self.assertEqual(t.sequences[1]["tokens"], len(plain["tokens"]))
                    for l in range(6):  # K and V are there whatever was left out
                        np.testing.assert_allclose(t.k(1, l, 1), plain["k"][l, 1], atol=1e-3)
                        np.testing.assert_allclose(t.v(1, l, 0), plain["v"][l, 0], atol=1e-3)
                    kept = len(t.q(1, 0, 0)[0])
                    if pressure == "block":
                        self.assertGreater(status["waits"], 0)
                        self.assertEqual(kept, len(plain["tokens"]))
                    if pressure == "drop":
                        self.assertGreater(status["refused_passes"] + status["lost_queries"], 0)
                        self.assertIn("pressure drop", text)
                        self.assertLess(kept, len(plain["tokens"]))
                        self.assertEqual(int(np.isnan(t.lse(1, 0)[:, 0]).sum()), len(plain["tokens"]) - kept)
                    if pressure == "shrink":
                        self.assertGreater(status["shrunk_queries"], 0)
                        self.assertIn("pressure shrink", text)
                        self.assertFalse(np.isnan(t.lse(1, 0)).any())

    def check_structure(self, name):
        done = subprocess.run([PROGRAM, "check", self.path(name)], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_writer_killed(self):
        model, ids = tiny(), ids_of(900)
        free = self.generate(model, ids, 60)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            with self.record(model, statistics=False) as r:
                self.generate(model, ids, 30)
                r.recorder.call("kvg_drain")
                os.kill(r.status()["writer_pid"], signal.SIGKILL)
                self.assertTrue(torch.equal(free, self.generate(model, ids, 60)))
        self.assertEqual(r.failed.code, 21)
        self.assertTrue(any("stopped recording" in str(w.message) for w in said))
        with kvgrind.Trace(self.path() + ".part") as t:
            self.assertGreater(t.sequences[0]["tokens"], ids.shape[1])
        done = subprocess.run([PROGRAM, "repair", self.path() + ".part", "-o", self.path("fixed.kvt")], capture_output=True)
        self.assertEqual(done.returncode, 0)
        done = subprocess.run([PROGRAM, "check", "--deep", self.path("fixed.kvt")], capture_output=True, text=True)
        self.assertEqual(done.returncode, 6)  # whole, and says that the recording was cut short
        self.assertIn("are intact", done.stdout + done.stderr)

    def test_disk_full(self):
        model, ids = tiny(), ids_of(900)
        free = self.generate(model, ids, 20)
        stat = os.statvfs(self.folder.name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with self.record(model, statistics=False, reserve_bytes=stat.f_bavail * stat.f_frsize - (1 << 20)) as r:
                self.assertTrue(torch.equal(free, self.generate(model, ids, 20)))
                self.assertTrue(torch.equal(free, self.generate(model, ids, 20)))
        self.assertEqual(r.failed.code, 5)
        with kvgrind.Trace(self.path() + ".part") as t:
            self.assertEqual(t.state, "truncated_disk_full")

    def test_host_killed(self):
        """The writer ends the file with what it has when the host process dies."""
        script = (f"import sys, os, torch\nsys.path.insert(0, {os.path.dirname(__file__)!r})\nimport hook_test as t\n"
                  "model, ids = t.tiny(), t.ids_of(600)\n"
                  f"r = t.kvgrind.record(model, {self.path()!r}, steps=4, statistics=False).__enter__()\n"
                  "t.Hook.generate(None, model, ids, 40)\nos.kill(os.getpid(), 9)\n")
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        self.assertEqual(done.returncode, -9, done.stderr)
        for _ in range(100):
            if os.path.exists(self.path() + ".part"):
                with kvgrind.Trace(self.path() + ".part") as t:
                    if t.state == "interrupted":
                        break
            elif os.path.exists(self.path()):
                break
            time.sleep(0.05)
        path = self.path() if os.path.exists(self.path()) else self.path() + ".part"
        with kvgrind.Trace(path) as t:
            self.assertIn(t.state, ("interrupted", "complete"))
            self.assertGreaterEqual(t.sequences[0]["tokens"], 39)

    def test_interrupted(self):
        """Ctrl+C in the middle: the block ends, what was whole is in the file."""
        model, ids = tiny(), ids_of(300)
        with self.assertRaises(KeyboardInterrupt):
            with self.record(model, statistics=False, steps=4):
                self.generate(model, ids, 20)
                self.generate(model, ids, 10)
                raise KeyboardInterrupt
        path = self.path() if os.path.exists(self.path()) else self.path() + ".part"
        with kvgrind.Trace(path) as t:
            self.assertEqual(len(t.sequences), 2)

    # -- torch.compile ---------------------------------------------------------------------------------------------------

    def test_compile(self):
        model, ids = tiny(), ids_of(300)
        with self.record(model, "eager.kvt", statistics=False, norms=False):
            with torch.no_grad():
                model(ids)
        torch._dynamo.reset()
        with self.record(model, "compiled.kvt", statistics=False, norms=False) as r:
            with torch.no_grad():
                torch.compile(model, backend=os.environ.get("KVGRIND_TEST_COMPILE", "aot_eager"))(ids)
        self.assertIsNone(r.failed)
        self.check("compiled.kvt")
        with kvgrind.Trace(self.path("eager.kvt")) as a, kvgrind.Trace(self.path("compiled.kvt")) as b:
            self.equal(arrays(a, 0), arrays(b, 0), 1e-3)


if __name__ == "__main__":
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, device {DEVICE}")
    unittest.main(verbosity=2)
