"""The recording hook for PyTorch and Transformers (4.48 to 5.x): see record() below and the user's guide.

How it works. The model's attention implementation is exchanged for one of the same behaviour, registered under a name
of its own together with the mask function of the one it stands for (without a mask function of the same name Transformers
would pass no mask). It calls that implementation for the output, untouched, and shows q, k and v to a writer process
through libkvgrind_record. Decode steps are collected on the model's device: a step costs one copy of q a layer, and
every `steps` steps K, V, Q and LSE of all of them leave together, read from the cache as it then is.
"""
import ctypes as c
import json
import math
import sys
import warnings

import torch

import kvgrind_capi as capi
import kvgrind_card as cards
from kvgrind_capi import RecordError
from kvgrind_lse import lse

_PREFIX = "kvgrind_"
_active = {}  # id → Recording, for the operators of compiled graphs
_PRESSURE = {"block": capi.BLOCK, "drop": capi.DROP, "shrink": capi.SHRINK}


def record(model, path, **options):
    """`with record(model, "run.kvt"):` records every forward pass of the block. Options, all by keyword:

    queries      "all" | "window" | "sample" | "none": which queries are kept (default all on the CPU, sample on a device)
    sequences    how many sequences may come at most (default 256; each costs 128 bytes)
    tokenizer    its vocabulary's bytes go into the file
    statistics   column sums, query statistics and pooled maps, computed by the writer on the CPU from all queries
                 (default: on the CPU only; for short recordings)
    logits       True: reference log-probabilities and NLL from the logits the model returns
    norms        True: norms of residual and attention input
    pressure     "block" | "drop" | "shrink", when the spool of `spool_bytes` is full
    steps        decode steps that leave the device together (default 64)
    expected_tokens, output_projection, fsync, reserve_bytes, force, anonymous, provenance, library, writer
    strict       True: a recording that failed raises at the end of the block (default: it warns)
    """
    return Recording(model, path, **options)


class Recording:
    def __init__(self, model, path, *, queries=None, query_window=64, query_sample_share=0.1, sequences=256,
                 tokenizer=None, statistics=None, logits=True, norms=True, pressure="block", spool_bytes=None, steps=64,
                 expected_tokens=0, output_projection=True, fsync="end", reserve_bytes=256 << 20, force=False,
                 anonymous=False, provenance=None, library=None, writer=None, strict=False):
        self.model = getattr(model, "_orig_mod", model)  # inside of torch.compile(model)
        self.device = next(self.model.parameters()).device
        on_device = self.device.type == "cuda"
        if self.device.type not in ("cpu", "cuda"):
            cards.refuse(model, f"a model on {self.device}", "one on the CPU or on CUDA devices")
        if pressure not in _PRESSURE:
            raise RecordError(f"recording: found pressure {pressure!r}, expected one of {', '.join(_PRESSURE)}")
        self.path, self.tokenizer, self.pressure, self.steps = str(path), tokenizer, pressure, max(1, int(steps))
        self.statistics = statistics if statistics is not None else not on_device and pressure == "block"
        self.logits, self.norms, self.strict = logits, norms, strict
        self.spare, self.expected, self.want_w_o = int(sequences), int(expected_tokens), output_projection
        self.options = {"queries": queries or ("sample" if on_device else "all"), "query_window": query_window,
                        "query_sample_share": query_sample_share, "fsync": fsync, "reserve_bytes": reserve_bytes,
                        "force": force, "anonymous": anonymous, "statistics": bool(self.statistics), "logits": bool(logits)}
        self.provenance = dict(provenance or {})
        self.library = capi.load(library)
        if on_device and not self.library.kvg_has_cuda():
            raise RecordError("recording: found a libkvgrind_record without CUDA, expected one built with it")
        self.attention = cards.attention_modules(self.model)
        self.decoder, self.layers = cards.decoder_of(self.model, self.attention)
        self.card = cards.describe(self.model, self.attention, next(self.model.parameters()).dtype)
        self.sinks = cards.sinks(self.attention)
        self._length_bound = cards.rope(self.model, self.attention)[2]
        self.recorder = capi.Recorder(self.library, spool_bytes or 0, _PRESSURE[pressure], writer)
        self.failed = None      # the first failure, in words; the model's run goes on without recording
        self.opened = False
        self.remarks = []
        self.next_sequence = 0
        self.batch = None
        self.generating = None  # what generate() was asked for
        self.coming_segments = None
        self.result = {}
        self.token = torch.zeros(1)  # what the operators of compiled graphs claim to change

    # -- for callers -----------------------------------------------------------------------------------------------

    def coming(self, segments):
        """Roles of the prompts fed next: for each row of the batch [(role, begin, end), …] over its own tokens."""
        self.coming_segments = segments

    def status(self):
        return self.recorder.status() if self.recorder.handle else self.result

    # -- entering and leaving ----------------------------------------------------------------------------------------

    def __enter__(self):
        _active[id(self)] = self
        self._exchange()
        self.hooks = [self.decoder.register_forward_pre_hook(self._before, with_kwargs=True)]
        if self.model is not self.decoder:
            self.hooks.append(self.model.register_forward_hook(self._after))
        else:
            self.hooks.append(self.decoder.register_forward_hook(self._after))
        if self.norms:
            for l, (layer, attention) in enumerate(zip(self.layers, self.attention)):
                self.hooks.append(layer.register_forward_pre_hook(self._norm_hook("hidden", l), with_kwargs=True))
                self.hooks.append(attention.register_forward_pre_hook(self._norm_hook("attn_in", l), with_kwargs=True))
            last = getattr(self.decoder, "norm", None) or getattr(self.decoder, "final_layernorm", None)
            if last is not None:
                self.hooks.append(last.register_forward_pre_hook(self._norm_hook("final", 0), with_kwargs=True))
        if hasattr(self.model, "generate"):
            own = self.model.generate
            self.model.generate = lambda *a, **k: self._generate(own, *a, **k)
        return self

    def __exit__(self, kind, error, trace):
        for hook in self.hooks:
            hook.remove()
        self._restore()
        self.model.__dict__.pop("generate", None)
        _active.pop(id(self), None)
        self._guard(lambda: self._finish_batch([]))
        if self.opened and self.failed is None:
            for line in self.remarks:
                self._guard(lambda line=line: self.recorder.call("kvg_remark", line.encode()))
            self._guard(lambda: self.recorder.call("kvg_interrupt" if kind is not None else "kvg_close"))
        if not self.opened and self.failed is None:
            self._fail("no forward pass went through the attention interface", capi.USAGE)
        self.result = self.recorder.status()
        self.recorder.free()
        if self.failed and self.strict and kind is None:
            raise self.failed
        return False

    def _exchange(self):
        """Registers our functions and makes every config of the model name them."""
        from transformers import modeling_utils
        table = modeling_utils.ALL_ATTENTION_FUNCTIONS
        self.before = []
        for module in self.model.modules():
            config = getattr(module, "config", None)
            if config is None or any(config is known for known, _ in self.before):
                continue
            backend = getattr(config, "_attn_implementation", None)
            if backend is None:
                continue
            self.before.append((config, backend))
        if not self.before:
            cards.refuse(self.model, "no attention implementation to choose", "transformers 4.48 or newer")
        for config, backend in self.before:
            if backend == "flex_attention":
                cards.refuse(self.model, "flex_attention", "eager, sdpa or flash attention")
            name = _PREFIX + backend
            interface = getattr(modeling_utils, "AttentionInterface", None)
            if interface is not None:
                interface.register(name, _attention_function(backend))
            else:
                table[name] = _attention_function(backend)
            try:
                from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
                if backend in ALL_MASK_ATTENTION_FUNCTIONS:
                    AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[backend])
            except ImportError:
                pass  # before 4.53 models made their masks themselves, for an unknown name a full one
        for config, backend in self.before:
            config._attn_implementation = _PREFIX + backend
        for layer, module in enumerate(self.attention):
            module._kvgrind = (id(self), layer)

    def _restore(self):
        for config, backend in self.before:
            config._attn_implementation = backend
        for module in self.attention:
            module.__dict__.pop("_kvgrind", None)

    def _fail(self, message, code=capi.USAGE):
        if self.failed is None:
            self.failed = message if isinstance(message, RecordError) else RecordError(message, code)
            warnings.warn(f"kvgrind stopped recording {self.path}: {self.failed} (the model's run goes on)", stacklevel=3)
            self.batch = None

    def _guard(self, work):
        """Nothing that goes wrong in recording reaches the model's run."""
        if self.failed is not None:
            return
        try:
            work()
        except RecordError as error:
            self._fail(error, error.code)
        except Exception as error:  # noqa: BLE001 (a fault of the hook must not end somebody's generation)
            self._fail(f"{type(error).__name__}: {error}", 70)

    # -- one generate() ----------------------------------------------------------------------------------------------

    def _generate(self, own, *arguments, **keywords):
        config = keywords.get("generation_config") or getattr(self.model, "generation_config", None)
        ask = lambda name, otherwise: keywords.get(name, getattr(config, name, None) or otherwise)
        if int(ask("num_beams", 1) or 1) > 1 or int(ask("num_return_sequences", 1) or 1) > 1 \
                or keywords.get("assistant_model") is not None or ask("prompt_lookup_num_tokens", None):
            raise RecordError("recording generate(): found beams, several returned sequences or an assistant, "
                              "expected one sequence a row that only grows")
        ids = keywords.get("input_ids", keywords.get("inputs", arguments[0] if arguments else None))
        eos = ask("eos_token_id", None) or []
        eos = eos if isinstance(eos, (list, tuple)) else [eos]
        self.generating = {"mask": keywords.get("attention_mask"), "eos": {int(e) for e in eos if e is not None},
                           "decode": int(ask("max_new_tokens", 0) or 0),
                           "prompt": int(ids.shape[1]) if ids is not None else 0}
        self._guard(lambda: self._finish_batch([]))
        try:
            out = own(*arguments, **keywords)
            tokens = out if isinstance(out, torch.Tensor) else out.sequences
            self._guard(lambda: self._finish_batch([int(t) for t in tokens[:, -1].cpu()]))
            return out
        finally:
            self.generating = None

    # -- the passes --------------------------------------------------------------------------------------------------

    def _before(self, module, arguments, keywords):
        ids = keywords.get("input_ids", arguments[0] if arguments else None)
        if torch.compiler.is_compiling():
            if ids is not None:
                mask = keywords.get("attention_mask")
                mask = mask if isinstance(mask, torch.Tensor) and mask.dim() == 2 else None
                torch.ops.kvgrind.begin(self.token, ids, mask, id(self))
            return
        cache = keywords.get("past_key_values", keywords.get("cache"))
        self._guard(lambda: self._begin(ids, keywords.get("attention_mask"), cache, keywords.get("position_ids")))

    def _after(self, module, arguments, output):
        logits = getattr(output, "logits", None)
        if torch.compiler.is_compiling():
            torch.ops.kvgrind.end(self.token, logits, id(self))
            return
        self._guard(lambda: self._end(logits))

    def _norm_hook(self, kind, layer):
        def hook(module, arguments, keywords):
            batch = self.batch
            if batch is None or torch.compiler.is_compiling():
                return
            hidden = arguments[0] if arguments else keywords.get("hidden_states")
            if hidden is not None:
                batch.hidden[(kind, layer)] = hidden
        return hook

    def _begin(self, ids, mask, cache, position_ids=None, fresh=None):
        if ids is None:
            raise RecordError("recording: found input embeddings, expected input_ids (tokens must be known)")
        rows, count = ids.shape
        batch = self.batch
        if fresh is None:
            known = batch is not None and cache is not None and cache is batch.cache and count == 1
            past = batch.slots if known else _length_of(cache)
            if batch is not None and past not in (0, batch.slots):
                raise RecordError(f"recording: found a cache of {past} tokens, expected 0 or the {batch.slots} fed so far "
                                  "(caches that are cropped, copied or filled elsewhere are not recorded)")
            if batch is None and past != 0:
                raise RecordError(f"recording: found a cache of {past} tokens that were not recorded, expected an empty one")
            fresh = past == 0
        if fresh or batch is None:
            self._finish_batch([])
            batch = self.batch = _Batch(self, rows)
        if rows != len(batch.rows):
            raise RecordError(f"recording: found {rows} rows, expected the batch's {len(batch.rows)}")
        batch.cache = cache
        batch.begin(ids, mask, position_ids)

    def _end(self, logits):
        if self.batch is not None:
            self.batch.end(logits if self.logits else None)

    def capture(self, layer, query, key, value, scale=None, window=None, cap=None):
        if self.batch is None or self.failed is not None:
            return
        try:
            if layer not in self.batch.checked:
                self._check(layer, query, key, value, scale, window, cap)
            self.batch.layer(layer, query, key, value)
        except RecordError as error:
            self._fail(error, error.code)
        except Exception as error:  # noqa: BLE001
            self._fail(f"{type(error).__name__}: {error}", 70)

    def _check(self, layer, query, key, value, scale, window, cap):
        """What the run really does against what the card says."""
        card = self.card
        found = (query.shape[1], key.shape[1], query.shape[3], value.shape[3])
        expected = (card["query_heads"], card["kv_heads"], card["head_dim"], card["head_dim"])
        if found != expected:
            raise RecordError(f"recording layer {layer}: found query heads, KV heads, dims of q and v {found}, expected "
                              f"{expected} as in the config: a trace has one shape for all layers")
        if scale is not None and not math.isclose(scale, card["scale"], rel_tol=1e-6):
            raise RecordError(f"recording layer {layer}: found the scale {scale}, expected {card['scale']}")
        if cap is not None and not math.isclose(cap, card["softcap"], rel_tol=1e-6):
            raise RecordError(f"recording layer {layer}: found the softcap {cap}, expected {card['softcap']}")
        if window and window != card["layer"][layer]["window"]:
            raise RecordError(f"recording layer {layer}: found a window of {window}, expected {card['layer'][layer]['window']}")
        self.batch.checked.add(layer)

    # -- the file ----------------------------------------------------------------------------------------------------

    def open(self, sequences, dtype):
        self.card["dtype"] = cards._DTYPES.get(dtype) or cards.refuse(self.model, f"keys of {dtype}", "f32, f16 or bf16")
        self.card["rope"], _, self._length_bound = cards.rope(self.model, self.attention)
        tokens = self.expected or sum(s["tokens"] + s["decode"] for s in sequences)
        self.options["output_projection"] = self.want_w_o and self._send_output_projection(tokens)
        if self.tokenizer is not None:
            texts = cards.vocabulary_bytes(self.tokenizer, self.card["vocab"])
            ends, at = (c.c_int64 * len(texts))(), 0
            for i, text in enumerate(texts):
                at += len(text)
                ends[i] = at
            self.recorder.call("kvg_token_text", b"".join(texts), ends, len(texts))
        provenance = {"source": "PyTorch hook", "torch": torch.__version__, "device": str(self.device),
                      "attention": sorted({backend for _, backend in self.before}), "pressure": self.pressure,
                      "steps": self.steps} | self.provenance
        if not self.options["anonymous"]:
            provenance.setdefault("command", " ".join(sys.argv))
        plan = {"card": self.card, "sequences": sequences, "spare_sequences": max(0, self.spare - len(sequences)),
                "options": self.options, "provenance": provenance}
        self.recorder.call("kvg_open", self.path.encode(), json.dumps(plan).encode())
        self.opened = True
        if self.device.type != "cpu" and not self.statistics:
            self.remarks.append("column sums, maps, query statistics: statistics=False")
        self._lengths = [getattr(m, "max_seq_len_cached", 0) for m in self._length_bound]

    def _send_output_projection(self, tokens):
        """W_O where it is at most 5 % of the file, the writer's own rule."""
        projections = [cards.output_projection(a) for a in self.attention]
        width = self.card["query_heads"] * self.card["head_dim"]
        if any(p.bias is not None for p in projections):
            self.remarks.append("output projection: the model's has a bias, which a trace does not store")
        if any(tuple(p.weight.shape) != (self.card["hidden"], width) or p.weight.dtype not in _KINDS for p in projections):
            return False
        element = 4 if self.card["dtype"] == "f32" else 2
        weights = len(projections) * self.card["hidden"] * width * element
        row = len(projections) * element * (2 * self.card["kv_heads"] * self.card["head_dim"])
        if weights > (tokens * (row + len(projections) * element * width) + weights) / 20:
            return True  # the writer says so in the file
        for layer, p in enumerate(projections):
            weight = p.weight.detach().cpu().contiguous()
            self.recorder.call("kvg_output_projection", layer, weight.data_ptr(), weight.shape[0], weight.shape[1],
                               _KINDS[weight.dtype])
        return True

    def _finish_batch(self, next_tokens):
        batch, self.batch = self.batch, None
        if batch is None:
            return
        if self._length_bound and [getattr(m, "max_seq_len_cached", 0) for m in self._length_bound] != self._lengths:
            self.remarks.append("RoPE: the frequencies changed with the length of the run; the card has the first ones")
        batch.finish(next_tokens)


_KINDS = {torch.float32: capi.F32, torch.float16: capi.F16, torch.bfloat16: capi.BF16}


def _length_of(cache):
    if cache is None or not hasattr(cache, "get_seq_length"):
        return 0 if cache is None else int(cache[0][0].shape[-2])
    length = cache.get_seq_length()
    return int(length)


class _Row:
    """One sequence of a batch."""

    def __init__(self, sequence):
        self.sequence, self.tokens, self.prompt, self.pad = sequence, 0, 0, None
        self.done = False
        self.next_token = -1


class _Batch:
    """The sequences that are being fed together, from their first pass to their last."""

    def __init__(self, recording, rows):
        self.r = recording
        self.rows = [_Row(recording.next_sequence + i) for i in range(rows)]
        if recording.next_sequence + rows > recording.spare:
            raise RecordError(f"recording: found sequence {recording.next_sequence + rows}, expected at most "
                              f"{recording.spare}: give record(sequences=…)")
        recording.next_sequence += rows
        self.segments, recording.coming_segments = recording.coming_segments, None
        self.slots = 0            # fed so far, padding included
        self.cache = None
        self.checked = set()
        self.hidden = {}
        self.begun = False        # the pass under way has been announced
        self.steps = None
        self.described = False
        self.right_padded = False

    # A pass: rows [a, a + n) of each sequence are real.
    def begin(self, ids, mask, position_ids):
        r, count = self.r, ids.shape[1]
        self.ids, self.hidden = ids, {}
        self.decode = count == 1 and self.slots > 0
        if self.decode and self.steps is None:
            self.steps = _Steps(self)
        if not self.decode:
            self._flush()
            self.parts = self._parts(count, self._mask_of(mask, count))
            self._check_positions(position_ids)
        self.slots += count
        self.begun = False
        if self.decode:
            self.steps.begin(ids)

    def _mask_of(self, mask, count):
        if not isinstance(mask, torch.Tensor) or mask.dim() != 2:
            mask = self.r.generating["mask"] if self.r.generating else None
        if mask is None or mask.shape[1] < self.slots + count:
            return None
        return mask[:, self.slots:self.slots + count].bool().cpu()

    def _parts(self, count, mask):
        parts = []
        for b, row in enumerate(self.rows):
            a, n = 0, count
            if mask is not None:
                real = mask[b].nonzero()[:, 0]
                n = int(real.numel())
                a = int(real[0]) if n else count
                if n and int(real[-1]) - a + 1 != n:
                    raise RecordError("recording: found a mask with holes, expected padding left or right of each prompt")
            if self.right_padded and n:
                raise RecordError("recording: found tokens after right padding, expected left padding when more follows")
            if row.pad is None and n:
                row.pad = self.slots + a
            parts.append((b, a, n))
        self.right_padded = self.right_padded or any(n and a + n < count for _, a, n in parts)
        return parts

    def _check_positions(self, position_ids):
        if position_ids is None or position_ids.dim() != 2:
            if any(row.pad for row in self.rows):
                self._remark_positions()
            return
        for b, a, n in self.parts:
            where = position_ids[b if position_ids.shape[0] > 1 else 0]
            if n and int(where[a]) != self.rows[b].tokens:
                self._remark_positions()

    def _remark_positions(self):
        line = "RoPE: keys of left-padded rows are rotated at their place in the padded batch (no position_ids were given)"
        if line not in self.r.remarks:
            self.r.remarks.append(line)

    def _describe(self, dtype):
        r = self.r
        decode = r.generating["decode"] if r.generating else 0
        texts = []
        for b, a, n in self.parts:
            row = self.rows[b]
            row.prompt = row.tokens + n
            if r.generating and r.generating["prompt"] and not self.described and len(self.rows) == 1:
                row.prompt = max(row.prompt, r.generating["prompt"])  # fed in chunks
            own = self.segments[b] if self.segments else [("context", 0, row.prompt)]
            texts.append({"tokens": row.prompt, "decode": decode,
                          "segments": [{"role": role, "begin": begin, "end": end} for role, begin, end in own]})
        if not r.opened:
            r.open(texts, dtype)
        else:
            for row, text in zip(self.rows, texts):
                r.recorder.call("kvg_describe", row.sequence, json.dumps(text).encode())
        self.described = True

    def _announce(self, key):
        """The pass's begin, once its first layer has shown the type of the keys."""
        self._describe(key.dtype)
        self.parts = [p for p in self.parts if p[2] > 0]
        ids = self.ids
        self.keep = [ids]
        begun = (capi.Part * len(self.parts))()
        for i, (b, a, n) in enumerate(self.parts):
            mine = ids[b, a:a + n].contiguous()
            self.keep.append(mine)
            begun[i] = capi.Part(self.rows[b].sequence, self.rows[b].tokens, n, mine.data_ptr(), None)
        self._call_begin(begun, ids, 0)
        self.begun = True

    def _call_begin(self, begun, ids, decode):
        recorder, where = self.r.recorder, _where(ids)
        try:
            recorder.call("kvg_begin", begun, len(begun), ids.element_size(), decode, *where)
        except RecordError as error:
            if error.code != capi.NO_ROOM:
                raise
            recorder.call("kvg_drain")  # what cannot be left out waits
            recorder.call("kvg_begin", begun, len(begun), ids.element_size(), decode, *where)

    def layer(self, l, query, key, value):
        if self.decode:
            self.steps.layer(l, query, key, value)
            return
        if not any(n for _, _, n in self.parts):
            return
        if not self.begun:
            self._announce(key)
        r, card = self.r, self.r.card
        count = query.shape[2]
        base, offset = self.first_new(key, count)
        hidden, attn_in = self._norms(("hidden", l)), self._norms(("attn_in", l))
        keep, parts = [], (capi.LayerPart * len(self.parts))()
        for i, (b, a, n) in enumerate(self.parts):
            row = self.rows[b]
            end = base + a + n
            own_lse = self.lse_of(l, query[b, :, a:a + n].transpose(0, 1), key[b], row, row.tokens, offset, end)
            keep.append(own_lse)
            own = capi.LayerPart(_rows(query[b], a), _rows(key[b], base + a), _rows(value[b], base + a),
                                 own_lse.data_ptr(), None, None)
            for name, norms in (("hidden_norm", hidden), ("attn_in_norm", attn_in)):
                if norms is not None:
                    mine = norms[b, a:a + n].contiguous()
                    keep.append(mine)
                    setattr(own, name, mine.data_ptr())
            parts[i] = own
        r.recorder.call("kvg_layer", l, parts, *_where(query))

    def _norms(self, which):
        hidden = self.hidden.pop(which, None)
        return None if hidden is None else torch.linalg.vector_norm(hidden, dim=-1, dtype=torch.float32)

    def first_new(self, key, count):
        """(index of the first new row in the cache as shown, slots that the cache has let go)"""
        length = key.shape[2]
        if length >= self.slots:  # all there; a static cache has room behind
            return self.slots - count, 0
        return length - count, self.slots - length

    def lse_of(self, l, q, key, row, first, offset, end):
        """q [n, Hq, D] at positions first … of `row`, over rows of key [Hk, slots, D] before `end`."""
        card = self.r.card
        begin = max(0, (row.pad or 0) - offset)
        before = begin + offset - (row.pad or 0)  # tokens of the row that the cache has let go
        sinks = self.r.sinks[l].to(q.device) if self.r.sinks else None
        return lse(self.r.library if q.is_cuda else None, q, key[:, begin:end], first - before, card["scale"],
                   card["softcap"], card["layer"][l]["window"], sinks)

    def end(self, logits):
        if self.decode:
            self.steps.end(logits)
            return
        if not self.begun:
            return
        rows, self.begun = sum(n for _, _, n in self.parts), False
        end = capi.EndRows(size=c.sizeof(capi.EndRows))
        keep = []
        final = self._norms(("final", 0))
        if final is not None:  # all layers' norms went along with the layers; the last column comes with these
            L = self.r.card["layers"]
            own = torch.full((rows, L + 1), float("nan"), device=final.device)
            own[:, L] = torch.cat([final[b, a:a + n] for b, a, n in self.parts])
            keep.append(own)
            end.hidden_norm = own.data_ptr()
        if logits is not None:
            self._logits(end, logits, keep)
        self.r.recorder.call("kvg_end", c.byref(end), *_where(self.ids))
        at = 0
        for b, _, n in self.parts:
            self.rows[b].tokens += n

    def _logits(self, end, logits, keep):
        count, given = self.ids.shape[1], logits.shape[1]
        index, pieces, at = [], [], 0
        limit = (64 << 20) // (4 * logits.shape[2])
        for b, a, n in self.parts:
            rows = range(a, a + n)
            rows = [i for i in rows if i - (count - given) >= 0]
            if len(rows) > limit:
                rows = rows[-1:]
                line = "reference log-probabilities: of long passes, the last row only"
                if line not in self.r.remarks:
                    self.r.remarks.append(line)
            if rows:
                first = rows[0] - (count - given)
                pieces.append(logits[b, first:first + len(rows)])
                index += [at + i - a for i in rows]
            at += n
        if not index:
            return
        own = torch.cat(pieces).contiguous()
        own = own if own.dtype in _KINDS else own.float()
        places = (c.c_int64 * len(index))(*index)
        keep += [own, places]
        end.logit_rows, end.vocab, end.logits_dtype = len(index), own.shape[1], _KINDS[own.dtype]
        end.logit_row, end.logits = c.cast(places, c.c_void_p), own.data_ptr()

    def _flush(self):
        if self.steps is not None:
            self.steps.flush(wait=True)

    def finish(self, next_tokens):
        self._flush()
        if not self.described:
            return
        for b, row in enumerate(self.rows):
            next_token = row.next_token if row.done else next_tokens[b] if b < len(next_tokens) else -1
            self.r.recorder.call("kvg_sequence_done", row.sequence, next_token)


class _Steps:
    """Decode steps that wait on the device until `steps` of them leave together."""

    def __init__(self, batch):
        self.batch, self.r = batch, batch.r
        self.size = self.r.steps
        self.n = 0            # whole steps that wait
        self.debt = 0         # steps before them whose queries are lost and whose K and V still lie in the cache
        self.query, self.views, self.last = {}, {}, {}
        self.own = {}         # layers whose cache lets go of keys: K, V and LSE of each step
        self.ids, self.logits, self.norms = [], [], []
        self.old_ids = []
        self.open = False

    def begin(self, ids):
        self.ids.append(ids)
        static = any(key.shape[2] > self.batch.slots for key, _ in self.last.values())
        whole = len(self.ids) == (1 if static and not self.r.generating else self.size)
        if whole and self._room():
            self._announce()

    def _room(self):
        """Whether the waiting steps may leave now. Under `drop` they are given up where there is no room for them."""
        if self.r.pressure != "drop" or self.own or self.open:
            return True
        rows = (self.debt + len(self.ids)) * len(self.batch.rows)
        need = self.r.recorder.pass_bytes(rows, rows, rows if self.r.logits else 0)
        status = self.r.recorder.status()
        if need <= status["free_bytes"] or need > status["spool_bytes"] // 2:
            return True
        self.dropping = True
        return False

    dropping = False

    def _announce(self):
        batch = self.batch
        ids = torch.cat(self.old_ids + self.ids, dim=1)
        total = ids.shape[1]
        self.parts = []
        cut = ids.cpu() if self.r.generating and len(batch.rows) > 1 and self.r.generating["eos"] else None
        for b, row in enumerate(batch.rows):
            n = total
            if cut is not None and not row.done:
                ends = [i for i, t in enumerate(cut[b].tolist()) if t in self.r.generating["eos"]]
                if ends:  # the end of the text was sampled; what is fed after it is padding
                    n, row.done, row.next_token = ends[0], True, int(cut[b, ends[0]])
            elif row.done:
                n = 0
            if n:
                self.parts.append((b, n))
        self.open = True
        if not self.parts:
            return
        self.keep = [ids]
        begun = (capi.Part * len(self.parts))()
        lost = None
        if self.debt:
            lost = (c.c_uint8 * total)(*([0] * self.debt + [1] * (total - self.debt)))
            self.keep.append(lost)
        for i, (b, n) in enumerate(self.parts):
            mine = ids[b, :n].contiguous()
            self.keep.append(mine)
            begun[i] = capi.Part(batch.rows[b].sequence, batch.rows[b].tokens, n, mine.data_ptr(),
                                 c.cast(lost, c.c_void_p) if lost is not None else None)
        batch._call_begin(begun, ids, 1)

    def layer(self, l, query, key, value):
        views = self.views.get(l)
        if views is None:
            B, heads, _, dim = query.shape
            ring = torch.empty(self.size, B, heads, dim, dtype=query.dtype, device=query.device)
            self.query[l] = ring
            views = self.views[l] = [ring[s].unsqueeze(2) for s in range(self.size)]
        views[self.n].copy_(query)
        self.last[l] = (key, value)
        if self.r.card["layer"][l]["window"]:
            self._keep_own(l, query, key, value)
        if self.open:
            self._send(l, key, value, self.n + 1)

    def _keep_own(self, l, query, key, value):
        batch = self.batch
        ring = self.own.get(l)
        if ring is None:
            B, heads, _, dim = key.shape
            make = lambda *shape, dtype: torch.empty(self.size, B, *shape, dtype=dtype, device=key.device)
            ring = self.own[l] = (make(heads, dim, dtype=key.dtype), make(heads, dim, dtype=value.dtype),
                                  make(query.shape[1], dtype=torch.float32))
        base, offset = batch.first_new(key, 1)
        ring[0][self.n].copy_(key[:, :, base])
        ring[1][self.n].copy_(value[:, :, base])
        for b, row in enumerate(batch.rows):
            ring[2][self.n, b] = batch.lse_of(l, query[b].transpose(0, 1), key[b], row, row.tokens + self.n, offset,
                                              base + 1)[0]

    def _send(self, l, key, value, n):
        """K, V, Q and LSE of the debt and of n steps, the last of which is the newest in the cache."""
        batch = self.batch
        if not self.parts:
            return
        keep, out = [], (capi.LayerPart * len(self.parts))()
        total = self.debt + n
        ring, own = self.query[l], self.own.get(l)
        base, offset = batch.first_new(key, 1)
        start = base + 1 - total  # index in the cache of the first of them
        for i, (b, count) in enumerate(self.parts):
            row = batch.rows[b]
            q = _Slab(ring[:, b], ring.stride(0), ring.stride(2), -self.debt)
            if own is not None:
                k, v = (_Slab(x[:, b], x.stride(0), x.stride(2)) for x in own[:2])
                rows_lse = own[2][:count, b].contiguous()
            else:
                k, v = (_Slab(x[b], x.stride(2), x.stride(1), start) for x in (key, value))
                fresh = ring[:count - self.debt, b] if count > self.debt else ring[:0, b]
                rows_lse = batch.lse_of(l, fresh, key[b], row, row.tokens + self.debt, offset,
                                        start + count) if count > self.debt else None
                if self.debt:
                    lost = torch.full((min(self.debt, count), ring.shape[2]), float("nan"), device=ring.device)
                    rows_lse = lost if rows_lse is None else torch.cat([lost, rows_lse])
            keep.append(rows_lse)
            out[i] = capi.LayerPart(q.rows, k.rows, v.rows, rows_lse.data_ptr(), None, None)
        self.r.recorder.call("kvg_layer", l, out, *_where(key))

    def end(self, logits):
        batch, L = self.batch, self.r.card["layers"]
        if logits is not None:
            self.logits.append(logits[:, -1])
        order = [("hidden", l) for l in range(L)] + [("final", 0)] + [("attn_in", l) for l in range(L)]
        hidden = [batch.hidden.get(which) for which in order]
        if all(h is not None for h in hidden) and len({h.device for h in hidden}) == 1:
            self.norms.append(torch.linalg.vector_norm(torch.stack(hidden), dim=-1, dtype=torch.float32)[:, :, 0])
        batch.hidden = {}
        self.n += 1
        if self.open:
            self._end(self.n)
        elif self.dropping:
            self.dropping = False
            self.debt += self.n
            self.old_ids += self.ids
            self._restart()

    def _restart(self):
        self.n, self.ids, self.logits, self.norms = 0, [], [], []

    def _end(self, n):
        batch, L, total = self.batch, self.r.card["layers"], self.debt + n
        if self.parts:
            end, keep = capi.EndRows(size=c.sizeof(capi.EndRows)), []
            which = [(b, count) for b, count in self.parts]
            if len(self.norms) == n:
                norms = torch.stack(self.norms)  # [n, 2 L + 1, B]
                if self.debt:
                    nan = torch.full((self.debt, *norms.shape[1:]), float("nan"), device=norms.device)
                    norms = torch.cat([nan, norms])
                for name, first, width in (("hidden_norm", 0, L + 1), ("attn_in_norm", L + 1, L)):
                    own = torch.cat([norms[:count, first:first + width, b] for b, count in which]).contiguous()
                    keep.append(own)
                    setattr(end, name, own.data_ptr())
            if len(self.logits) == n:
                index, pieces, at = [], [], 0
                logits = torch.stack(self.logits)  # [n, B, V]
                for b, count in which:
                    if count > self.debt:
                        pieces.append(logits[:count - self.debt, b])
                        index += [at + i for i in range(self.debt, count)]
                    at += count
                if index:
                    own = torch.cat(pieces).contiguous()
                    own = own if own.dtype in _KINDS else own.float()
                    places = (c.c_int64 * len(index))(*index)
                    keep += [own, places]
                    end.logit_rows, end.vocab, end.logits_dtype = len(index), own.shape[1], _KINDS[own.dtype]
                    end.logit_row, end.logits = c.cast(places, c.c_void_p), own.data_ptr()
            self.r.recorder.call("kvg_end", c.byref(end), *_where(self.ids[0]))
        for b, count in self.parts:
            batch.rows[b].tokens += count
        self.open, self.debt, self.old_ids = False, 0, []
        self._restart()

    def flush(self, wait):
        """What waits, though the block is not full: from the caches as they were last seen."""
        if self.n == 0 and self.debt == 0:
            return
        self.ids = self.ids[:self.n]
        if self.n == 0:  # steps without queries alone: their K and V
            self.ids, self.old_ids = [], self.old_ids
        self._announce()
        for l in range(self.r.card["layers"]):
            self._send(l, *self.last[l], self.n)
        if not self.ids:
            self.ids = self.old_ids[:1]
        self._end(self.n)


class _Slab:
    """Rows of heads within a tensor, from row `start` on (which may lie before it: those rows are never read)."""

    def __init__(self, x, row_stride, head_stride, start=0):
        self.rows = capi.Rows(x.data_ptr() + start * row_stride * x.element_size(), row_stride, head_stride)


def _rows(x, start):
    return _Slab(x, x.stride(1), x.stride(0), start).rows


def _where(tensor):
    if not tensor.is_cuda:
        return -1, None
    return tensor.device.index, torch.cuda.current_stream(tensor.device).cuda_stream


# -- what Transformers calls ---------------------------------------------------------------------------------------------

_functions = {}


def _attention_function(backend):
    if backend in _functions:
        return _functions[backend]

    def attention(module, query, key, value, attention_mask, **keywords):
        out = _delegate(backend, module)(module, query, key, value, attention_mask, **keywords)
        mark = module.__dict__.get("_kvgrind")
        if mark is None:
            return out
        scale, window, cap = keywords.get("scaling"), keywords.get("sliding_window"), keywords.get("softcap")
        if torch.compiler.is_compiling():
            recording = _active.get(mark[0])
            torch.ops.kvgrind.capture(recording.token, query, key, value, mark[0], mark[1])
            return out
        recording = _active.get(mark[0])
        if recording is not None:
            recording.capture(mark[1], query, key, value, scale, window, cap)
        return out

    _functions[backend] = attention
    return attention


def _delegate(backend, module):
    if backend == "eager":
        for kind in type(module).__mro__:
            own = getattr(sys.modules.get(kind.__module__), "eager_attention_forward", None)
            if own is not None:
                return own
        raise RecordError(f"recording {type(module).__name__}: found no eager_attention_forward beside it, expected one; "
                          "choose attn_implementation='sdpa'")
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
    return ALL_ATTENTION_FUNCTIONS[backend]


def _uncaptured():
    if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        raise RecordError("recording: found a CUDA graph being captured (torch.compile in a mode with graphs), expected "
                          "launches; use torch.compile(mode='default')")


@torch.library.custom_op("kvgrind::begin", mutates_args={"token"})
def _op_begin(token: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor | None, recording: int) -> None:
    own = _active.get(recording)
    _uncaptured()
    if own is not None:
        batch = own.batch
        fresh = batch is None or ids.shape[1] > 1 or ids.shape[0] != len(batch.rows)
        own._guard(lambda: own._begin(ids, mask, batch.cache if batch and not fresh else None, None, fresh))


@torch.library.custom_op("kvgrind::capture", mutates_args={"token"})
def _op_capture(token: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, recording: int,
                layer: int) -> None:
    own = _active.get(recording)
    if own is not None:
        own.capture(layer, query, key, value)


@torch.library.custom_op("kvgrind::end", mutates_args={"token"})
def _op_end(token: torch.Tensor, logits: torch.Tensor | None, recording: int) -> None:
    own = _active.get(recording)
    if own is not None:
        own._guard(lambda: own._end(logits))
