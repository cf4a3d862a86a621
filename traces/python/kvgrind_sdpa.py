"""PyTorch's scaled_dot_product_attention together with the log-sum-exp that its kernels compute anyway.

Transformers' SDPA function is called as it is. While it runs, the function of PyTorch that it calls is one which, where
PyTorch would choose a fused kernel for plain causal attention, calls that very kernel by its own name: same output, and
the log-sum-exp beside it. With a mask, dropout or another kernel there is none, and it is computed a second time.
"""
import threading

import torch
import torch.nn.functional as F

_plain = F.scaled_dot_product_attention
_FLASH, _CUDNN = 1, 3  # torch.nn.attention.SDPBackend
_cudnn = getattr(torch, "_scaled_dot_product_cudnn_attention", None) or getattr(
    torch.ops.aten, "_scaled_dot_product_cudnn_attention", None)


class _Asked(threading.local):
    wanted = False
    lse = None
    kernel = 0


_asked = _Asked()


def call(function, *arguments, **keywords):
    """(what `function` returns, lse [B, Hq, n] float32 or None, the kernel's number)"""
    if F.scaled_dot_product_attention is not _plain:  # somebody else's already
        return function(*arguments, **keywords), None, 0
    _asked.wanted, _asked.lse = True, None
    F.scaled_dot_product_attention = _with_lse
    try:
        out = function(*arguments, **keywords)
    finally:
        F.scaled_dot_product_attention = _plain
        _asked.wanted = False
    lse, _asked.lse = _asked.lse, None
    return out, lse, _asked.kernel


def _with_lse(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=None):
    gqa = {} if enable_gqa is None else {"enable_gqa": enable_gqa}
    if _asked.wanted and attn_mask is None and not dropout_p and query.dim() == 4 and query.shape[-1] % 8 == 0:
        _asked.wanted = False
        try:
            kernel = torch._fused_sdp_choice(query, key, value, None, 0.0, is_causal, scale=scale, **gqa)
            if kernel == _FLASH and query.is_cuda:
                out, lse = torch._scaled_dot_product_flash_attention(query, key, value, 0.0, is_causal, scale=scale)[:2]
            elif kernel == _FLASH and query.device.type == "cpu":
                out, lse = torch._scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, is_causal,
                                                                             scale=scale)[:2]
            elif kernel == _CUDNN and query.is_cuda:
                out, lse = _cudnn(query, key, value, None, True, 0.0, is_causal, False, scale=scale)[:2]
            else:
                out = lse = None
        except (AttributeError, TypeError):  # a PyTorch whose kernels are called otherwise
            out = lse = None
        if out is not None:
            if lse.requires_grad:
                lse = lse.detach()
            if lse.shape != query.shape[:3]:  # [B, Hq, n, 1]
                lse = lse.reshape(query.shape[:3]) if lse.numel() == query.shape[:3].numel() else None
            if lse is not None and lse.dtype == torch.float32:
                _asked.lse, _asked.kernel = lse, kernel
            return out
    return _plain(query, key, value, attn_mask=attn_mask, dropout_p=dropout_p, is_causal=is_causal, scale=scale, **gqa)
