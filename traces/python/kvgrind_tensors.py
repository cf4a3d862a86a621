"""Tensors as the C interface wants them: where rows lie, on which device and stream, and their types by number."""
import torch

import kvgrind_capi as capi

KINDS = {torch.float32: capi.F32, torch.float16: capi.F16, torch.bfloat16: capi.BF16}


def head_rows(x, row_axis, head_axis, start=0):
    """Rows of heads within x, from row `start` on (which may lie before it: those rows are never read)."""
    return capi.Rows(x.data_ptr() + start * x.stride(row_axis) * x.element_size(), x.stride(row_axis), x.stride(head_axis))


def place(tensor):
    """(device, stream) of the C interface."""
    if not tensor.is_cuda:
        return -1, None
    return tensor.device.index, torch.cuda.current_stream(tensor.device).cuda_stream


def plain(logits):
    """Dense and of a type that the C interface knows."""
    logits = logits.contiguous()
    return logits if logits.dtype in KINDS else logits.float()
