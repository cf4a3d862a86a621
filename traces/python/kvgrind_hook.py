"""The recording hook for PyTorch and Transformers (4.48 to 5.x): see record() below and the user's guide.

How it works. The model's attention implementation is exchanged for one of the same behaviour, registered under a name
of its own together with the mask function of the one it stands for (without a mask function of the same name Transformers
would pass no mask). It calls that implementation for the output, untouched, and shows q, k and v to a writer process
through libkvgrind_record. Decode steps are collected on the model's device, and every `steps` steps K, V, Q and LSE of
all of them leave together.

kvgrind_attention.py: what Transformers calls; kvgrind_sdpa.py: LSE from SDPA itself; kvgrind_batch.py: passes of
prompts; kvgrind_steps.py: decode steps; kvgrind_norms.py: what norms are taken of; kvgrind_opening.py: what the file is
opened with; kvgrind_card.py: the model.
"""
import json
import math
import warnings

import torch

import kvgrind_attention as attention
import kvgrind_capi as capi
import kvgrind_card as cards
from kvgrind_batch import Batch
from kvgrind_capi import RecordError
from kvgrind_norms import Norms
from kvgrind_opening import open_file, send_output_projection, send_texts

_PREFIX = "kvgrind_"
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
        self.logits, self.strict = logits, strict
        self.norms = Norms(self) if norms else None
        self.spare, self.expected, self.want_w_o = int(sequences), int(expected_tokens), output_projection
        self.options = {"queries": queries or ("sample" if on_device else "all"), "query_window": query_window,
                        "query_sample_share": query_sample_share, "fsync": fsync, "reserve_bytes": reserve_bytes,
                        "force": force, "anonymous": anonymous, "statistics": bool(self.statistics), "logits": bool(logits), "wait": False}
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
        # Whether LSE may come from the model's own attention: of what SDPA does not know, nothing may be in the card.
        self.fused = not self.card["softcap"] and not self.card["sinks"]
        self.trusted = set()    # kernels whose LSE was compared, for prompts and for steps
        self.token = torch.zeros(1)  # what the operators of compiled graphs claim to change

    # -- for callers -----------------------------------------------------------------------------------------------

    def coming(self, segments):
        """Roles of the prompts fed next: for each row of the batch [(role, begin, end), …] over its own tokens."""
        self.coming_segments = segments

    def status(self):
        return self.recorder.status() if self.recorder.handle else self.result

    # -- entering and leaving ----------------------------------------------------------------------------------------

    def __enter__(self):
        attention.active[id(self)] = self
        for index in sorted({p.device.index for p in self.model.parameters() if p.device.type == "cuda"}):
            self.guard(lambda index=index: self.recorder.call("kvg_prepare", index))
        self.guard(lambda: send_texts(self))
        if self.expected:
            self.guard(lambda: send_output_projection(self, self.expected))
        self._exchange()
        self.hooks = [self.decoder.register_forward_pre_hook(self._before, with_kwargs=True)]
        if self.model is not self.decoder:
            self.hooks.append(self.model.register_forward_hook(self._after))
        else:
            self.hooks.append(self.decoder.register_forward_hook(self._after))
        if self.norms:
            self.norms.attach()
        if hasattr(self.model, "generate"):
            own = self.model.generate
            self.model.generate = lambda *a, **k: self._generate(own, *a, **k)
        return self

    def __exit__(self, kind, error, trace):
        for hook in self.hooks:
            hook.remove()
        if self.norms:
            self.norms.detach()
        self._restore()
        self.model.__dict__.pop("generate", None)
        attention.active.pop(id(self), None)
        self.guard(lambda: self._finish_batch([]))
        if self.opened and self.failed is None:
            for line in self.remarks:
                self.guard(lambda line=line: self.recorder.call("kvg_remark", line.encode()))
            self.guard(lambda: self.recorder.call("kvg_interrupt" if kind is not None else "kvg_close"))
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
                interface.register(name, attention.function_for(backend))
            else:
                table[name] = attention.function_for(backend)
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

    def guard(self, work):
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
        if self.device.type == "cuda" and hasattr(config, "disable_compile"):
            keywords.setdefault("disable_compile", True)  # static caches would have Transformers capture CUDA graphs
        self.guard(lambda: self._finish_batch([]))
        try:
            out = own(*arguments, **keywords)
            tokens = out if isinstance(out, torch.Tensor) else out.sequences
            self.guard(lambda: self._finish_batch([int(t) for t in tokens[:, -1].cpu()]))
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
        self.guard(lambda: self.begin(ids, keywords.get("attention_mask"), cache, keywords.get("position_ids")))

    def _after(self, module, arguments, output):
        logits = getattr(output, "logits", None)
        if torch.compiler.is_compiling():
            torch.ops.kvgrind.end(self.token, logits, id(self))
            return
        self.guard(lambda: self.end(logits))

    def begin(self, ids, mask, cache, position_ids=None, fresh=None):
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
            batch = self.batch = Batch(self, rows)
        if rows != len(batch.rows):
            raise RecordError(f"recording: found {rows} rows, expected the batch's {len(batch.rows)}")
        batch.cache = cache
        batch.begin(ids, mask, position_ids)

    def end(self, logits):
        if self.batch is not None:
            self.batch.end(logits if self.logits else None)
            if self.norms:
                self.norms.pass_done()

    def trust(self, kernel, layer, query, key, lse):
        """lse if it is that of the attention the card describes: seen once for each kernel, for prompts and for steps."""
        if self.batch is None or self.failed is not None:
            return None
        try:
            self.fused = self.batch.agrees(layer, query, key, lse)
            if self.fused:
                self.trusted.add((kernel, query.shape[2] == 1))
                return lse
        except Exception as error:  # noqa: BLE001
            self._fail(f"{type(error).__name__}: {error}", 70)
        return None

    def capture(self, layer, query, key, value, lse, asked):
        """What attention was given, and what it was asked for (scaling, window, softcap)."""
        if self.batch is None or self.failed is not None:
            return
        try:
            if layer not in self.batch.checked:
                self._check(layer, query, key, value, asked)
            self.batch.layer(layer, query, key, value, lse)
        except RecordError as error:
            self._fail(error, error.code)
        except Exception as error:  # noqa: BLE001
            self._fail(f"{type(error).__name__}: {error}", 70)

    def _check(self, layer, query, key, value, asked):
        """What the run really does against what the card says."""
        card = self.card
        scale, window, cap = asked.get("scaling"), asked.get("sliding_window"), asked.get("softcap")
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

    def open(self, sequences, dtype):
        if self._length_bound:  # reading the frequencies waits for the device
            self.card["rope"], _, self._length_bound = cards.rope(self.model, self.attention)
        open_file(self, sequences, dtype)
        self.opened = True
        self._lengths = [getattr(m, "max_seq_len_cached", 0) for m in self._length_bound]

    def _finish_batch(self, next_tokens):
        batch, self.batch = self.batch, None
        if batch is None:
            return
        if self._length_bound and [getattr(m, "max_seq_len_cached", 0) for m in self._length_bound] != self._lengths:
            self.remarks.append("RoPE: the frequencies changed with the length of the run; the card has the first ones")
        batch.finish(next_tokens)


def _length_of(cache):
    if cache is None:
        return 0
    return int(cache.get_seq_length()) if hasattr(cache, "get_seq_length") else int(cache[0][0].shape[-2])
