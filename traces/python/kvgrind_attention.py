"""What Transformers and compiled graphs call in the place of a model's attention while it is recorded."""
import sys

import torch

import kvgrind_sdpa as sdpa
from kvgrind_capi import RecordError

active = {}  # id → Recording
_functions, _eager = {}, {}


def function_for(backend):
    """An attention function of the behaviour of `backend` that shows q, k and v to the recording of the module."""
    if backend in _functions:
        return _functions[backend]
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS as table
    is_compiling, fused, eager = torch.compiler.is_compiling, backend == "sdpa", backend == "eager"

    def attention(module, query, key, value, attention_mask, **keywords):
        own = _eager_of(module) if eager else table[backend]
        mark = module.__dict__.get("_kvgrind")
        if mark is None:
            return own(module, query, key, value, attention_mask, **keywords)
        recording = active.get(mark[0])
        if is_compiling():
            out = own(module, query, key, value, attention_mask, **keywords)
            torch.ops.kvgrind.capture(recording.token, query, key, value, mark[0], mark[1])
            return out
        if recording is None or recording.batch is None:
            return own(module, query, key, value, attention_mask, **keywords)
        lse = None
        if fused and attention_mask is None and recording.fused:
            out, lse, kernel = sdpa.call(own, module, query, key, value, attention_mask, **keywords)
            if lse is not None and (kernel, query.shape[2] == 1) not in recording.trusted:
                lse = recording.trust(kernel, mark[1], query, key, lse)
        else:
            out = own(module, query, key, value, attention_mask, **keywords)
        steps = recording.batch.quick if recording.batch is not None else None
        if steps is None or steps.open:
            recording.capture(mark[1], query, key, value, lse, keywords)
        else:
            steps.hold(mark[1], query, key, value, lse)
        return out

    _functions[backend] = attention
    return attention


def _eager_of(module):
    kind = type(module)
    own = _eager.get(kind)
    if own is not None:
        return own
    for base in kind.__mro__:
        own = getattr(sys.modules.get(base.__module__), "eager_attention_forward", None)
        if own is not None:
            _eager[kind] = own
            return own
    raise RecordError(f"recording {kind.__name__}: found no eager_attention_forward beside it, expected one; "
                      "choose attn_implementation='sdpa'")


def _no_capturing():
    if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        raise RecordError("recording: found a CUDA graph being captured (torch.compile in a mode with graphs), expected "
                          "launches; use torch.compile(mode='default')")


@torch.library.custom_op("kvgrind::begin", mutates_args={"token"})
def _begin(token: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor | None, recording: int) -> None:
    own = active.get(recording)
    _no_capturing()
    if own is not None:
        batch = own.batch
        fresh = batch is None or ids.shape[1] > 1 or ids.shape[0] != len(batch.rows)
        own.guard(lambda: own.begin(ids, mask, batch.cache if batch and not fresh else None, None, fresh))


@torch.library.custom_op("kvgrind::capture", mutates_args={"token"})
def _capture(token: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, recording: int,
             layer: int) -> None:
    own = active.get(recording)
    if own is not None and own.batch is not None:
        own.batch.compiled = True  # buffers of a compiled graph are used again
        own.capture(layer, query, key, value, None, {})


@torch.library.custom_op("kvgrind::end", mutates_args={"token"})
def _end(token: torch.Tensor, logits: torch.Tensor | None, recording: int) -> None:
    own = active.get(recording)
    if own is not None:
        own.guard(lambda: own.end(logits))
