"""Run by tests/traces/kvt_python_test.cpp; a failed check ends with a message and a status other than 0.

  companion_test.py hashes FILE      lines "length hash" of the bytes (7 i + 3) mod 256
  companion_test.py plain FILE       opens in h5py alone, as any tool would
  companion_test.py read FILE DIR    compares a trace with arrays that the C++ reader wrote to DIR
  companion_test.py probes FILE DIR  compares passes over a context once more with what the C++ reader wrote to DIR
  companion_test.py write FILE       writes a trace of known numbers
  companion_test.py results FILE N   reads N result rows, though the last line is torn
  companion_test.py kept FILE        reads a plan
"""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../../../traces/python"))
import h5py
import kvgrind
import numpy as np


def equal(what, found, expected, tolerance=0.0):
    found, expected = np.asarray(found), np.asarray(expected)
    if found.shape != expected.shape:
        sys.exit(f"{what}: shape {found.shape}, expected {expected.shape}")
    same = np.isclose(found, expected, rtol=tolerance, atol=tolerance, equal_nan=True)
    if not same.all():
        sys.exit(f"{what}: differs at {np.argwhere(~same)[0]}: {found[~same][0]}, expected {expected[~same][0]}")


def hashes(path):
    for line in open(path):
        length, expected = line.split()
        data = ((7 * np.arange(int(length)) + 3) % 256).astype(np.uint8).tobytes()
        for function in (kvgrind.xxh3_64, kvgrind._xxh3_numpy):
            if f"{function(data):016x}" != expected:
                sys.exit(f"XXH3 of {length} bytes: {function(data):016x}, expected {expected}")


def plain(path):
    with h5py.File(path, "r") as f:
        names = sorted(f)
        rows = int(f["status"][0, 1])
        for name in ("k", "v", "q", "lse", "tokens", "pos", "seq", "nll", "top_id", "colsum", "qstat_second", "map_max", "w_o"):
            if name not in names:
                sys.exit(f"/{name} is missing")
            f[name][...]
        if f["k"].shape[0] != rows or rows == 0:
            sys.exit(f"/k has {f['k'].shape[0]} rows, /status says {rows}")


def read(path, folder):
    def expected(name, kind, shape):
        return np.fromfile(os.path.join(folder, name), kind).reshape(shape)

    with kvgrind.Trace(path) as t:
        for info in t.sequences:
            s, T = info["id"], info["tokens"]
            equal("tokens", t.tokens(s), expected(f"tokens.{s}", "<i4", (T,)))
            equal("nll", t.nll(s), expected(f"nll.{s}", "<f4", (T,)))
            text = b"".join(t.token_bytes(s))
            if text != open(os.path.join(folder, f"text.{s}"), "rb").read():
                sys.exit("text differs")
            ids, log_p = t.top(s)
            equal("top ids", ids, expected(f"top_ids.{s}", "<i4", (T, 64)))
            equal("top log p", log_p, expected(f"top_log_p.{s}", "<f4", (T, 64)))
            about = " ".join(f"{r}:{b}:{e}" for r, b, e in info["segments"])
            about += " | " + " ".join(f"{x['kind']}:{x['begin']}:{x['end']}:{x['label']}" for x in info["spans"])
            about += f" | {info['next_token']}"
            if about != open(os.path.join(folder, f"about.{s}")).read():
                sys.exit(f"sequence {s}: {about}")
            for l in range(t.layers):
                at = f"{s}.{l}"
                equal("lse", t.lse(s, l), expected(f"lse.{at}", "<f4", (T, t.query_heads)))
                equal("hidden norm", t.hidden_norm(s)[:, l], expected(f"hidden.{at}", "<f4", (T,)))
                sums = t.colsum(s, l)
                if sums is not None:
                    if info["parent"] < 0:
                        equal("column sums", sums, expected(f"colsum.{at}", "<f4", (t.query_heads, T)))
                    last = len(info["segments"]) - 1
                    while info["segments"][last][0] == "generated":
                        last -= 1
                    equal("column sums of a segment", t.colsum(s, l, last), expected(f"colsum_segment.{at}", "<f4", (t.query_heads, T)))
                for h in range(t.kv_heads):
                    equal("k", t.k(s, l, h), expected(f"k.{at}.{h}", "<f4", (T, t.head_dim)))
                    equal("k pre", t.k(s, l, h, rope="pre"), expected(f"k_pre.{at}.{h}", "<f4", (T, t.head_dim)), 2e-5)
                    equal("v", t.v(s, l, h), expected(f"v.{at}.{h}", "<f4", (T, t.head_dim)))
                for h in range(t.query_heads):
                    position, q = t.q(s, l, h)
                    equal("q positions", position, expected(f"q_position.{at}.{h}", "<i8", (-1,)))
                    equal("q", q, expected(f"q.{at}.{h}", "<f4", (len(position), t.head_dim)))
                    row = t.qstat(s, l, h)[-1]
                    equal("second moment", row["second_moment"], expected(f"second.{at}.{h}", "<f4", (t.head_dim, t.head_dim)))
                    cell, most, mean = t.map(s, l, h)
                    equal("map max", most, expected(f"map_max.{at}.{h}", "<f4", most.shape), 1e-6)
                    equal("map mean", mean, expected(f"map_mean.{at}.{h}", "<f4", mean.shape), 1e-6)
        for l in range(t.layers):
            equal("w_o", t.w_o(l), expected(f"w_o.{l}", "<f4", (t.card["hidden"], t.query_heads * t.head_dim)))


def probes(path, folder):
    with kvgrind.Trace(path) as t:
        for info in t.sequences:
            s = info["id"]
            about = " ".join(f"{p['kind']}:{p['number']}:{p['begin']}:{p['end']}" for p in t.probes(s))
            if about != open(os.path.join(folder, f"passes.{s}")).read():
                sys.exit(f"sequence {s}: {about}")
            for kind in ("repeat", "reread", "episode"):
                for l in range(t.layers):
                    for p in t.probe(s, l, kind):
                        for name in ("part_max", "part_max_norm", "row_max", "row_max_norm", "row_mean"):
                            file = os.path.join(folder, f"{kind}.{s}.{l}.{p['number']}.{name}")
                            if (name in p) != os.path.exists(file):
                                sys.exit(f"{file}: measured in the one and not in the other")
                            if name in p:
                                equal(name, p[name], np.fromfile(file, "<f4").reshape(t.query_heads, p["end"] - p["begin"]))


def prefix(path):
    with kvgrind.Trace(path) as t:
        if t.state != "unfinished":
            sys.exit(f"state {t.state}")
        total = 0
        for info in t.sequences:
            given = min(info["tokens"], 75)  # then what was generated
            equal("tokens", t.tokens(info["id"])[:given], (np.arange(given) * 37 + 5) % 100)
            t.k(info["id"], 1, 0)
            total += info["own_rows"]
        print(total)


def write(path):
    def numbers(seed, *shape):
        return np.sin(np.arange(np.prod(shape)) * 0.37 + seed).reshape(shape).astype(np.float32)

    for dtype in ("f32", "f16", "bf16"):
        card = {"layers": 2, "query_heads": 4, "kv_heads": 2, "head_dim": 6, "dtype": dtype, "scale": 0.25, "vocab": 99,
                "rope": [{"inv_freq": [1.0, 0.1, 0.01]}], "model_hash": "feed"}
        sequences = []
        for i, n in enumerate((70, 33)):
            sequences.append({"tokens": np.arange(n) + i, "k": numbers(i, n, 2, 2, 6), "v": numbers(i + 10, n, 2, 2, 6),
                              "q": numbers(i + 20, 5, 2, 4, 6), "q_positions": np.arange(5) * 6, "lse": numbers(i + 30, n, 2, 4),
                              "nll": numbers(i + 40, n), "text": [b"t%d " % j for j in range(n)],
                              "segments": [("context", 0, 20), ("question", 20, n)],
                              "spans": [{"kind": "needle", "begin": 3, "end": 9, "label": "täg"}], "next_token": 7 + i})
        kvgrind.write_trace(f"{path}.{dtype}", card, sequences)
        with kvgrind.Trace(f"{path}.{dtype}") as t:
            equal("k again", t.k(1, 1, 1), kvgrind._from_file(kvgrind._to_file(sequences[1]["k"], dtype), dtype)[:, 1, 1])
            if t.state != "complete" or t.segments(1)[1] != ("question", 20, 33) or t.spans(0)[0]["label"] != "täg":
                sys.exit("what was written does not come back")


def results(path, n):
    rows = kvgrind.results(path)
    if len(rows) != int(n):
        sys.exit(f"{len(rows)} rows, expected {n}")


def kept(path):
    state = kvgrind.kept(path, 0, 1)
    equal("plan", state, [[1, 0, 3], [2, 1, 19]])
    equal("plan of v", kvgrind.kept(path, 0, 0, "v"), [[0, 0, 1], [1, 1, 1]])
    equal("plan of v as k", kvgrind.kept(path, 0, 1, "v"), state)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
