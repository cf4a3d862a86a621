"""large_trace.py OUT [TOKENS] [LAYERS]: a trace of real shape (8 KV heads, 32 query heads, head dim 128, bf16) with made-up
values: a sink, neighbours and some look-ups. Needs numpy and h5py."""
import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[3] / "traces" / "python"))
import kvgrind

out, T, L = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 32768, int(sys.argv[3]) if len(sys.argv) > 3 else 1
Hq, Hk, D = 32, 8, 128
rng = np.random.default_rng(1)
bf16 = lambda x: np.ascontiguousarray(x, np.float32)
k = rng.standard_normal((T, L, Hk, D), np.float32)
v = rng.standard_normal((T, L, Hk, D), np.float32)
q = rng.standard_normal((T, L, Hq, D), np.float32)
k[:4] += 0.5
# Logits of such vectors are close to normal with variance 1: LSE = log(t + 1) + 1/2.
lse = np.broadcast_to((np.log(np.arange(1, T + 1)) + 0.5)[:, None, None], (T, L, Hq)).astype(np.float32)
words = [b" the", b" cache", b" keeps", b" what", b" it", b" needs", b".\n"]
kvgrind.write_trace(out, {"layers": L, "query_heads": Hq, "kv_heads": Hk, "head_dim": D, "dtype": "bf16",
                          "scale": D ** -0.5, "name": "made-up-32x8"},
                    [{"tokens": np.arange(T, dtype=np.int32) % 7, "k": bf16(k), "v": bf16(v), "q": bf16(q), "lse": lse,
                      "text": [words[t % 7] for t in range(T)],
                      "segments": [("context", 0, T - 64), ("question", T - 64, T - 32), ("answer", T - 32, T)],
                      "spans": [{"kind": "needle", "begin": T // 3, "end": T // 3 + 12, "label": "made up"}]}])
