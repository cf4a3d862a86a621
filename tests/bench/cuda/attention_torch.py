"""PyTorch's own attention at the shapes of bench_attention_cuda, for the same run: median of CUDA-event times."""
import sys

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention as sdpa


def median_ms(work, repeats):
    for _ in range(2):
        work()
    times = []
    for _ in range(repeats):
        a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        a.record()
        work()
        b.record()
        b.synchronize()
        times.append(a.elapsed_time(b))
    return sorted(times)[len(times) // 2]


print(torch.__version__, torch.cuda.get_device_name())
for n in [int(x) for x in sys.argv[1:]] or [4096, 32768]:
    q = torch.randn(1, 32, n, 128, device="cuda", dtype=torch.bfloat16)
    k = torch.randn(1, 8, n, 128, device="cuda", dtype=torch.bfloat16)
    v = torch.randn(1, 8, n, 128, device="cuda", dtype=torch.bfloat16)
    flops = 4 * 128 * 32 * n * (n + 1) / 2
    for name, backend in [("FlashAttention-2", SDPBackend.FLASH_ATTENTION), ("cuDNN", SDPBackend.CUDNN_ATTENTION)]:
        try:
            with sdpa_kernel(backend):
                ms = median_ms(lambda: sdpa(q, k, v, is_causal=True, enable_gqa=True), 9)
            print(f"prefill {name:<17} T={n:<6} {ms:9.3f} ms  {flops / ms / 1e9:.1f} TFLOP/s")
        except RuntimeError as error:
            print(f"prefill {name:<17} T={n:<6} {str(error).splitlines()[0]}")
    for batch in (1, 8):
        layers = max(2, (256 << 20) // (4 * n * 8 * 128 * batch))
        caches = [(torch.randn(batch, 8, n, 128, device="cuda", dtype=torch.bfloat16),
                   torch.randn(batch, 8, n, 128, device="cuda", dtype=torch.bfloat16)) for _ in range(layers)]
        one = torch.randn(batch, 32, 1, 128, device="cuda", dtype=torch.bfloat16)

        def steps():
            for kk, vv in caches:
                sdpa(one, kk, vv, enable_gqa=True)

        with torch.no_grad():
            for name, backend in [("flash", SDPBackend.FLASH_ATTENTION), ("default", None)]:
                try:
                    if backend is None:
                        ms = median_ms(steps, 21) / layers
                    else:
                        with sdpa_kernel(backend):
                            ms = median_ms(steps, 21) / layers
                    print(f"decode {name:<8} batch {batch} T={n:<6} {ms:9.4f} ms  {batch * n * 8 * 128 * 4 / ms / 1e6:.0f} GB/s")
                except RuntimeError as error:
                    print(f"decode {name:<8} batch {batch} T={n:<6} {str(error).splitlines()[0]}")
