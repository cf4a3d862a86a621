"""Log-sum-exp of attention rows, computed a second time: no back end of Transformers hands it out.

On a CUDA device in float32 or bfloat16: kvgrind's own attention kernel (kvg_lse). Elsewhere, and in float16: products
in float32, a few hundred queries at once. Either reads the keys as the cache holds them; cheap where it counts, since
decode steps are summed up 64 at a time and then read the keys once.
"""
import ctypes as c

import torch

import kvgrind_capi as capi


def lse(library, q, k, first, scale, softcap=0.0, window=0, sinks=None):
    """[n, Hq] float32 of queries q [n, Hq, D] at positions first … over keys k [Hk, S, D] at positions 0 …"""
    if q.is_cuda and q.dtype in (torch.float32, torch.bfloat16) and library is not None and q.shape[-1] <= 256:
        return _on_device(library, q, k, first, scale, softcap, window, sinks)
    return _by_products(q, k, first, scale, softcap, window, sinks)


def _on_device(library, q, k, first, scale, softcap, window, sinks):
    n, heads, dim = q.shape
    q = q.contiguous()
    if k.stride(2) != 1 or k.stride(1) != dim:
        k = k.contiguous()
    out = torch.empty(n, heads, dtype=torch.float32, device=q.device)
    scratch = torch.empty_like(q)
    params = capi.LseParams(
        size=c.sizeof(capi.LseParams), dtype=capi.F32 if q.dtype == torch.float32 else capi.BF16, query_heads=heads,
        kv_heads=k.shape[0], head_dim=dim, n=n, first=first, head_stride=k.stride(0), window=window, scale=scale,
        softcap=softcap, sinks=sinks.data_ptr() if sinks is not None else None, q=q.data_ptr(), k=k.data_ptr(),
        lse=out.data_ptr(), scratch=scratch.data_ptr())
    if library.kvg_lse(c.byref(params), q.device.index, torch.cuda.current_stream(q.device).cuda_stream) != capi.OK:
        raise capi.RecordError(library.kvg_last_error().decode())
    return out


def _by_products(q, k, first, scale, softcap, window, sinks):
    n, heads, dim = q.shape
    groups, keys = k.shape[0], k.shape[1]
    wide = k.float()
    out = torch.empty(n, heads, dtype=torch.float32, device=q.device)
    key = torch.arange(keys, device=q.device)
    step = max(1, min(n, (1 << 26) // max(1, heads * keys)))
    for at in range(0, n, step):
        rows = q[at:at + step].float()
        m = rows.shape[0]
        grouped = rows.reshape(m, groups, heads // groups, dim).permute(1, 2, 0, 3).reshape(groups, -1, dim)
        logits = torch.matmul(grouped, wide.transpose(1, 2)) * scale
        if softcap:
            logits = softcap * torch.tanh(logits / softcap)
        logits = logits.reshape(heads, m, keys)
        position = torch.arange(first + at, first + at + m, device=q.device)[:, None]
        hidden = key > position
        if window:
            hidden = hidden | (position - key >= window)
        rows_lse = torch.logsumexp(logits.masked_fill(hidden, float("-inf")), dim=-1)
        if sinks is not None:
            rows_lse = torch.logaddexp(rows_lse, sinks.to(rows_lse.device)[:, None])
        out[at:at + m] = rows_lse.transpose(0, 1)
    return out
