"""Companion of kvgrind: reads and writes its traces, results and plans. One file; numpy and h5py, pandas if it is there.

    import kvgrind
    t = kvgrind.Trace("run.kvt")              # finished, live or crashed recordings alike
    k = t.k(seq=0, layer=3, head=1)           # [T, D] float32 as the cache held it; rope="pre" undoes the rotation
    positions, q = t.q(seq=0, layer=3, head=5)
    rows = kvgrind.results("results.jsonl")   # DataFrame, or a list of dicts without pandas
    state = kvgrind.kept("plans.h5", job=0, layer=3)   # uint8 [Hk, T]
    kvgrind.write_trace("mine.kvt", card, sequences)   # a file that kvgrind reads
    with kvgrind.record(model, "run.kvt"):    # records a PyTorch/Transformers model (kvgrind_hook.py beside this file)
        model.generate(**inputs, max_new_tokens=64)

The file format is described in traces/SCHEMA.md. Only committed rows are read, and each slice's checksum is verified
the first time (verify=False skips that). Files from people you do not trust: run `kvgrind check` first.
"""
import json
import os
import struct

import h5py
import numpy as np

__all__ = ["Trace", "results", "kept", "write_trace", "xxh3_64", "record"]

# ---------------------------------------------------------------------------------------------------------------------
# XXH3, 64 bits, seed 0: the checksum of the format. The xxhash module is used where it is installed.

_SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671f"
    "cb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c"
    "3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364"
    "eac5ac8334d3ebc3c581a0fffa1363eb170ddd51b7f0da49d316552629d4689e"
    "2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e"
)
_M = (1 << 64) - 1
_P32 = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D)
_P64 = (0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5)


def _u32(data, at):
    return struct.unpack_from("<I", data, at)[0]


def _u64(data, at):
    return struct.unpack_from("<Q", data, at)[0]


def _fold(a, b):
    product = a * b
    return (product & _M) ^ (product >> 64)


def _avalanche(h):
    h ^= h >> 37
    h = (h * 0x165667919E3779F9) & _M
    return h ^ (h >> 32)


def _avalanche64(h):
    h ^= h >> 33
    h = (h * _P64[1]) & _M
    h ^= h >> 29
    h = (h * _P64[2]) & _M
    return h ^ (h >> 32)


def _swap(x):
    return int.from_bytes(x.to_bytes(8, "little"), "big")


def _rotate(x, n):
    return ((x << n) | (x >> (64 - n))) & _M


def _mix16(data, at, secret_at):
    return _fold(_u64(data, at) ^ _u64(_SECRET, secret_at), _u64(data, at + 8) ^ _u64(_SECRET, secret_at + 8))


def _xxh3_short(d):
    n = len(d)
    if n == 0:
        return _avalanche64(_u64(_SECRET, 56) ^ _u64(_SECRET, 64))
    if n <= 3:
        combined = (d[0] << 16) | (d[n >> 1] << 24) | d[n - 1] | (n << 8)
        return _avalanche64(combined ^ _u32(_SECRET, 0) ^ _u32(_SECRET, 4))
    if n <= 8:
        keyed = (_u32(d, n - 4) + (_u32(d, 0) << 32)) ^ _u64(_SECRET, 8) ^ _u64(_SECRET, 16)
        h = keyed ^ _rotate(keyed, 49) ^ _rotate(keyed, 24)
        h = (h * 0x9FB21C651E98DF25) & _M
        h ^= ((h >> 35) + n) & _M
        h = (h * 0x9FB21C651E98DF25) & _M
        return h ^ (h >> 28)
    if n <= 16:
        low = _u64(d, 0) ^ _u64(_SECRET, 24) ^ _u64(_SECRET, 32)
        high = _u64(d, n - 8) ^ _u64(_SECRET, 40) ^ _u64(_SECRET, 48)
        return _avalanche((n + _swap(low) + high + _fold(low, high)) & _M)
    acc = (n * _P64[0]) & _M
    if n <= 128:
        for i in range((n - 1) // 32, -1, -1):
            acc += _mix16(d, 16 * i, 32 * i) + _mix16(d, n - 16 * (i + 1), 32 * i + 16)
        return _avalanche(acc & _M)
    for i in range(8):
        acc += _mix16(d, 16 * i, 16 * i)
    acc = _avalanche(acc & _M)
    for i in range(8, n // 16):
        acc += _mix16(d, 16 * i, 16 * (i - 8) + 3)
    acc += _mix16(d, n - 16, 136 - 17)
    return _avalanche(acc & _M)


_KEYS = np.stack([np.frombuffer(_SECRET, "<u8", 8, 8 * i) for i in range(16)])  # of the 16 stripes of a block
_LOW = np.uint64(0xFFFFFFFF)


def _stripes(words, keys):
    """Sum over stripes of what each adds to the accumulators; words [..., stripes, 8]."""
    key = words ^ keys
    swapped = words.reshape(words.shape[:-1] + (4, 2))[..., ::-1].reshape(words.shape)
    return ((key & _LOW) * (key >> np.uint64(32)) + swapped).sum(axis=-2, dtype=np.uint64)


def _xxh3_long(d):
    n = len(d)
    blocks = (n - 1) // 1024
    acc = np.array([_P32[2], _P64[0], _P64[1], _P64[2], _P64[3], _P32[1], _P64[4], _P32[0]], np.uint64)
    scramble = np.frombuffer(_SECRET, "<u8", 8, 128)
    with np.errstate(over="ignore"):
        step = 1024  # blocks at a time, so that memory stays small
        for first in range(0, blocks, step):
            count = min(step, blocks - first)
            words = np.frombuffer(d, "<u8", count * 128, first * 1024).reshape(count, 16, 8)
            for added in _stripes(words, _KEYS):
                acc = acc + added
                acc = (acc ^ (acc >> np.uint64(47)) ^ scramble) * np.uint64(_P32[0])
        rest = (n - 1 - 1024 * blocks) // 64
        if rest:
            words = np.frombuffer(d, "<u8", rest * 8, 1024 * blocks).reshape(rest, 8)
            acc = acc + _stripes(words, _KEYS[:rest])
        last = np.frombuffer(bytes(d[n - 64:]), "<u8").reshape(1, 8)
        acc = acc + _stripes(last, np.frombuffer(_SECRET[121:185], "<u8").reshape(1, 8))
    a = [int(x) for x in acc]
    h = (n * _P64[0]) & _M
    for i in range(4):
        h += _fold(a[2 * i] ^ _u64(_SECRET, 11 + 16 * i), a[2 * i + 1] ^ _u64(_SECRET, 19 + 16 * i))
    return _avalanche(h & _M)


def _xxh3_numpy(data):
    data = memoryview(data).cast("B")
    return _xxh3_short(bytes(data)) if len(data) <= 240 else _xxh3_long(data)


try:
    import xxhash as _xxhash

    def xxh3_64(data):
        """XXH3-64 of a buffer."""
        return _xxhash.xxh3_64_intdigest(data)
except ImportError:
    xxh3_64 = _xxh3_numpy


def _sum_of(array):
    array = np.ascontiguousarray(array)
    return xxh3_64(array.reshape(-1).view(np.uint8).data if array.size else b"")


def record(model, path, **options):
    """Records every forward pass of a Transformers model within the block; options: kvgrind_hook.record."""
    import sys
    folder = os.path.dirname(os.path.abspath(__file__))
    if folder not in sys.path:
        sys.path.append(folder)
    import kvgrind_hook
    return kvgrind_hook.record(model, path, **options)


# ---------------------------------------------------------------------------------------------------------------------
# The format's tables.

_ROLES = ("system", "context", "question", "answer", "generated")
_PROBES = ["repeat", "reread", "episode"]
_STATISTICS = ["part_max", "part_max_norm", "row_max", "row_max_norm", "row_mean"]
_STATES = ("unfinished", "complete", "truncated_disk_full", "interrupted")
_SMALL = ("tokens", "pos", "seq", "nll", "hidden_norm", "attn_in_norm", "top_id", "top_logp", "text", "text_end", "q_row")
_NONE = (1 << 64) - 1  # −1 in a u64 table


def _signed(value):
    value = int(value)
    return value - (1 << 64) if value >= 1 << 63 else value


def _sealed(row):
    return _sum_of(row[:15]) == int(row[15])


def _from_file(array, dtype):
    if dtype == "bf16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32)


def _to_file(array, dtype):
    array = np.ascontiguousarray(array, np.float32)
    if dtype == "f32":
        return array
    if dtype == "f16":
        return array.astype(np.float16)
    bits = array.view(np.uint32)
    nearest = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    quiet = ((bits >> 16) | 0x40).astype(np.uint16)
    return np.where((bits & 0x7FFFFFFF) > 0x7F800000, quiet, nearest)


class Trace:
    """A recording. Positions are token indices of a sequence seen whole (a fork's begin with its parent's)."""

    def __init__(self, path, verify=True):
        self.path = os.fspath(path)
        try:
            self.file = h5py.File(self.path, "r")
        except OSError:
            self.file = h5py.File(self.path, "r", libver="latest", swmr=True)  # live, or not closed properly
        f = self.file
        if _text(f.attrs.get("kvgrind_format", b"")) != "kvgrind-trace":
            raise ValueError(f"{self.path}: no kvgrind trace")
        version = [int(x) for x in f.attrs["version"]]
        if version[0] != 1:
            raise ValueError(f"{self.path}: format {version[0]}.{version[1]}; this module reads 1.x")
        if features := _text(f.attrs["required_features"]):
            raise ValueError(f"{self.path}: requires the feature {features}, unknown here")
        self.verify = verify
        self.card = self._blob("card")
        self.header = self._blob("header")
        self.provenance = self._blob("provenance")
        self._names = f["names"][:].tobytes().rstrip(b"\0")
        self.layers, self.kv_heads = self.card["layers"], self.card["kv_heads"]
        self.query_heads, self.head_dim = self.card["query_heads"], self.card["head_dim"]
        self._commits()
        self._verified = set()
        status = f["status"][0]
        good = _sum_of(status[:7]) == int(status[7])
        self.state = _STATES[int(status[0])] if good else "unfinished"
        try:
            self.not_recorded = json.loads(f["not_recorded"][:].tobytes().rstrip(b"\0") or b"[]")
        except ValueError:
            self.not_recorded = ["the list of what was not recorded is unreadable"]
        self._sequences()

    def close(self):
        self.file.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # -- what was recorded ---------------------------------------------------------------------------------------------

    def k(self, seq, layer, head, rope="post"):
        """Keys [T, D] float32; rope='post' as the cache held them, 'pre' with the rotation undone."""
        x = self._rows("k", seq, layer, head, layer * self.kv_heads + head)
        if rope == "post":
            return x
        if rope != "pre":
            raise ValueError("rope is 'post' or 'pre'")
        sets = self.card["rope"]
        if not sets:
            return x
        one = sets[self.card["layer"][layer]["rope_set"]]
        inv_freq = np.array(one["inv_freq"], np.float32)
        half = len(inv_freq)
        angle = np.arange(len(x), dtype=np.float32)[:, None] * inv_freq
        factor = np.float32(one["attention_factor"])
        cos, sin = np.cos(angle) / factor, np.sin(angle) / factor
        a, b = x[:, :half].copy(), x[:, half:2 * half].copy()
        x[:, :half] = a * cos + b * sin
        x[:, half:2 * half] = b * cos - a * sin
        return x

    def v(self, seq, layer, head):
        """Values [T, D] float32."""
        column = self.layers * self.kv_heads + layer * self.kv_heads + head
        return self._rows("v", seq, layer, head, column)

    def q(self, seq, layer, head):
        """(positions [R], queries [R, D] float32 post-RoPE) of a query head."""
        if "q" not in self.file:
            return np.zeros(0, np.int64), np.zeros((0, self.head_dim), np.float32)
        column = 2 * self.layers * self.kv_heads + layer * self.query_heads + head
        positions, rows = [], []
        for position, row, n in self._runs(seq):
            a, b = np.searchsorted(self._q_row, (row, row + n))
            if a == b:
                continue
            rows.append(self._slice("q", a, b - a, 4, (layer, head), column))
            positions.append(self._q_row[a:b] - row + position)
        if not rows:
            return np.zeros(0, np.int64), np.zeros((0, self.head_dim), np.float32)
        return np.concatenate(positions), _from_file(np.concatenate(rows), self.card["dtype"])

    def lse(self, seq, layer):
        """log Σ exp(logit) [T, Hq], natural."""
        return self._rows("lse", seq, layer, None, self._base(0) + layer - self.layers)

    def tokens(self, seq):
        return self._small("tokens", seq)

    def nll(self, seq):
        """−log p(next token) in the recorded run [T], NaN where unknown."""
        out = self._small("nll", seq)
        info = self.sequences[seq]
        at = info["fork_at"]
        if info["parent"] >= 0 and at > 0 and info["own_rows"] > 0:
            parent, own = self.tokens(info["parent"]), self.tokens(seq)
            if at >= len(parent) or parent[at] != own[at]:
                out[at - 1] = np.nan
        return out

    def hidden_norm(self, seq):
        """L2 norm of each layer's input residual [T, L + 1]; the last column is the final residual."""
        return self._small("hidden_norm", seq)

    def attn_in_norm(self, seq):
        return self._small("attn_in_norm", seq)

    def top(self, seq):
        """(ids [T, 64], natural log-probabilities [T, 64]) of the most likely next tokens."""
        return self._small("top_id", seq), self._small("top_logp", seq)

    def token_bytes(self, seq):
        """The bytes of each token."""
        out = []
        for _, row, n in self._runs(seq):
            before = 1 if row > 0 else 0
            ends = self._slice("text_end", row - before, n + before, 2, None, self._base(9))
            first = int(ends[0]) if before else 0
            text = self._slice("text", first, int(ends[-1]) - first, 6, None, self._base(8)).tobytes()
            edges = [first] + [int(e) for e in ends[before:]]
            out += [text[a - first:b - first] for a, b in zip(edges, edges[1:])]
        return out

    def segments(self, seq):
        return self.sequences[seq]["segments"]

    def spans(self, seq):
        return self.sequences[seq]["spans"]

    def colsum(self, seq, layer, segment=None):
        """Attention each key received from the prefill queries of one of the sequence's own segments, or from all its own
        prefill queries [Hq, T]; None where not recorded."""
        info = self.sequences[seq]
        commit = self._ends.get(seq)
        if commit is None or "colsum" not in self.file:
            return None
        own = None if segment is None else segment - info["inherited"]
        first, n = int(commit[6]), int(commit[7])
        sums = self.file["colsum_sums"][first:first + n]
        if self.verify and _sum_of(sums) != int(commit[11]):
            raise ValueError(f"{self.path}: /colsum_sums: other checksums than committed")
        for i, block in enumerate(self.file["colsum_index"][first:first + n]):
            if (own is None and int(block[1]) == _NONE) or (own is not None and int(block[1]) == own):
                row, keys = int(block[5]), int(block[6])
                data = self.file["colsum"][row:row + keys, layer, :]
                self._check("colsum", data, sums[i][layer])
                out = np.zeros((self.query_heads, info["tokens"]), np.float32)
                out[:, :keys] = data.T
                return out
        return None

    def probes(self, seq):
        """Passes over the sequence's context once more (those of contexts that it continues too), by kind and number."""
        out, reach = [], self.sequences[seq]["tokens"]
        while seq >= 0:
            out += [p for p in self._probes if p["sequence"] == seq and p["first"] <= reach]
            reach = min(reach, self.sequences[seq]["fork_at"])
            seq = self.sequences[seq]["parent"]
        return sorted(out, key=lambda p: (_PROBES.index(p["kind"]), p["number"]))

    def probe(self, seq, layer, kind):
        """What the context's keys received in passes of a kind ("repeat", "reread", "episode"): a list of {number, begin,
        end, and of what was measured part_max, part_max_norm, row_max, row_max_norm, row_mean [Hq, end - begin]}."""
        out = []
        for p in self.probes(seq):
            if p["kind"] != kind:
                continue
            data = self.file["probe"][p["_row"]:p["_row"] + p["_rows"], layer, :]
            self._check("probe", data, p["_sums"][layer])
            keys = p["end"] - p["begin"]
            columns = [name for i, name in enumerate(_STATISTICS) if p["_mask"] >> i & 1]
            out.append({"number": p["number"], "begin": p["begin"], "end": p["end"],
                        **{name: data[i * keys:(i + 1) * keys].T for i, name in enumerate(columns)}})
        return out

    def qstat(self, seq, layer, head):
        """Statistics of pre-RoPE queries, one dict for each of the sequence's own segments."""
        commit = self._ends.get(seq)
        if commit is None or "qstat_mean" not in self.file:
            return []
        first, n = int(commit[8]), int(commit[9])
        sums = self.file["qstat_sums"][first:first + n]
        if self.verify and _sum_of(sums) != int(commit[12]):
            raise ValueError(f"{self.path}: /qstat_sums: other checksums than committed")
        out = []
        for i, row in enumerate(self.file["qstat_index"][first:first + n]):
            one = {"segment": int(row[1]), "begin": int(row[2]), "end": int(row[3]), "n": int(row[4])}
            for kind, (key, name) in enumerate((("mean", "qstat_mean"), ("mean_modulus", "qstat_modulus"),
                                                ("second_moment", "qstat_second"))):
                data = self.file[name][first + i, layer]
                self._check(name, data, sums[i][3 * layer + kind])
                one[key] = data[head]
            out.append(one)
        return out

    def map(self, seq, layer, head):
        """(tokens a cell, max [side, side], mean [side, side]) of the attention map, or None."""
        commit = self._maps.get(seq)
        if commit is None or "map_max" not in self.file:
            return None
        at = int(commit[3])
        row, sums = self.file["map_index"][at], self.file["map_sums"][at]
        cell, side, first = int(row[3]), int(row[4]), int(row[5])
        cells = side * (side + 1) // 2
        out = []
        for kind, name in enumerate(("map_max", "map_mean")):
            begin = first + layer * self.query_heads * cells
            codes = self.file[name][begin:begin + self.query_heads * cells]
            self._check(name, codes, sums[2 * layer + kind])
            code = codes[head * cells:(head + 1) * cells].astype(np.float64)
            value = np.where(code == 0, 0.0, 10.0 ** (6.0 * (code - 254.0) / 253.0))
            value[code == 255] = np.nan
            square = np.zeros((side, side), np.float32)
            square[np.tril_indices(side)] = value
            out.append(square)
        return cell, out[0], out[1]

    def w_o(self, layer):
        """Output projection [hidden, Hq · D], or None when it is not stored."""
        if "w_o" not in self.file:
            return None
        data = self.file["w_o"][layer]
        self._check("w_o", data, self.file["w_o_sums"][layer])
        return _from_file(data, self.header["output_projection_dtype"])

    # -- inside --------------------------------------------------------------------------------------------------------

    def _blob(self, name):
        data = self.file[name][:]
        if _sum_of(data) != int(self.file[name].attrs["xxh3"]):
            raise ValueError(f"{self.path}: /{name}: another checksum than recorded")
        return json.loads(data.tobytes().rstrip(b"\0"))

    def _check(self, name, data, committed):
        if self.verify and _sum_of(data) != int(committed):
            raise ValueError(f"{self.path}: /{name}: another checksum than committed")

    def _commits(self):
        """Good commit rows of each stream: sealed, numbered, chained and continuous."""
        self._tok, self._ends, self._maps = [], {}, {}
        count, chain, rows, queries, text = [0] * 5, [0] * 5, 0, 0, 0
        seg, maps, probes = [], [], []
        for row in self.file["commit"][:]:
            stream = int(row[0])
            if stream not in (1, 2, 3, 4) or not _sealed(row):
                continue
            if int(row[1]) != count[stream] or int(row[14]) != chain[stream]:
                continue
            if stream == 1:
                if (int(row[2]), int(row[4]), int(row[6])) != (rows, queries, text):
                    continue
                rows, queries, text = rows + int(row[3]), queries + int(row[5]), text + int(row[7])
                self._tok.append(row)
            else:
                (seg if stream == 2 else maps if stream == 3 else probes).append(row)
            count[stream] += 1
            chain[stream] = int(row[15])
        self.rows = rows
        self._queries = queries
        self._ends = {int(row[2]): row for row in seg}
        self._maps = {int(row[2]): row for row in maps}
        self._probes = [self._probe_row(row) for row in probes]
        self._sums = self.file["tok_sums"][:len(self._tok)]
        edges = np.cumsum([0, self.layers * self.kv_heads, self.layers * self.kv_heads, self.layers * self.query_heads,
                           self.layers, len(_SMALL)])
        for row, sums in zip(self._tok, self._sums):
            for i in range(5):
                if _sum_of(sums[edges[i]:edges[i + 1]]) != int(row[8 + i]):
                    raise ValueError(f"{self.path}: /tok_sums: other checksums than committed")

    def _probe_row(self, commit):
        at = int(commit[3])
        row, sums = self.file["probe_index"][at], self.file["probe_sums"][at]
        if _sum_of(row) != int(commit[10]) or _sum_of(sums) != int(commit[11]):
            raise ValueError(f"{self.path}: /probe_index: another row than committed")
        names = ["sequence", "kind", "number", "_mask", "begin", "end", "sinks", "first", "fed", "lead", "_row", "_rows"]
        out = dict(zip(names, (int(x) for x in row)))
        return out | {"kind": _PROBES[out["kind"] - 1], "_sums": sums}

    def _base(self, small):
        return self.layers * (2 * self.kv_heads + self.query_heads) + self.layers + small

    def _slice(self, name, first, n, column, place, sums_column):
        """Rows of a dataset, widened to whole commits, verified, cut. `column`: of the commit row that counts them."""
        if n == 0:
            return self.file[name][0:0] if place is None else self.file[name][(slice(0, 0),) + place]
        begins = np.array([int(row[column]) for row in self._tok])
        ends = begins + np.array([int(row[column + 1]) for row in self._tok])
        a = int(np.searchsorted(ends, first, side="right"))
        b = int(np.searchsorted(begins, first + n, side="left"))
        low, high = int(begins[a]), int(ends[b - 1])
        data = self.file[name][(slice(low, high),) + (place or ())]
        for c in range(a, b):
            key = (c, sums_column)
            if self.verify and key not in self._verified:
                if _sum_of(data[begins[c] - low:ends[c] - low]) != int(self._sums[c][sums_column]):
                    raise ValueError(f"{self.path}: /{name}: another checksum of rows {begins[c]} to {ends[c] - 1} than committed")
                self._verified.add(key)
        return data[first - low:first - low + n]

    def _rows(self, name, seq, layer, head, column):
        place = (layer,) if head is None else (layer, head)
        parts = [self._slice(name, row, n, 2, place, column) for _, row, n in self._runs(seq)]
        width = self.query_heads if head is None else self.head_dim
        if not parts:
            return np.zeros((0, width), np.float32)
        return _from_file(np.concatenate(parts), "f32" if name == "lse" else self.card["dtype"])

    def _small(self, name, seq):
        index = _SMALL.index(name)
        parts = [self._slice(name, row, n, 2, None, self._base(index)) for _, row, n in self._runs(seq)]
        return np.concatenate(parts) if parts else self.file[name][0:0]

    def _runs(self, seq):
        info = self.sequences[seq]
        out = []
        if info["parent"] >= 0 and info["tokens"] > 0:
            for position, row, n in self._runs(info["parent"]):
                n = min(n, info["fork_at"] - position)
                if n > 0:
                    out.append((position, row, n))
        return out + info["_own"]

    def _sequences(self):
        f = self.file
        announced = []
        for row in f["sequence"][:]:
            if not _sealed(row) or int(row[12]) != 0:
                break
            announced.append(row)
        for seq, commit in self._ends.items():
            announced[seq] = f["sequence"][int(commit[3])]
        own = [[] for _ in announced]
        if self.rows:
            seq = self._slice("seq", 0, self.rows, 2, None, self._base(2))
            pos = self._slice("pos", 0, self.rows, 2, None, self._base(1))
            breaks = np.flatnonzero((np.diff(seq) != 0) | (np.diff(pos) != 1)) + 1
            edges = [0, *breaks.tolist(), self.rows]
            for a, b in zip(edges, edges[1:]):
                own[int(seq[a])].append((int(pos[a]), a, b - a))
        has_queries = self.header["content"]["queries"]
        self._q_row = self._slice("q_row", 0, self._queries, 4, None, self._base(10)) if has_queries else None
        self.sequences = []
        for id_, row in enumerate(announced):
            rows = sum(n for _, _, n in own[id_])
            done, fork_at, parent = id_ in self._ends, int(row[2]), _signed(row[1])
            tokens = fork_at + rows if rows or done else 0
            segments = [(_ROLES[int(s[1])], min(int(s[2]), tokens), min(int(s[3]), tokens))
                        for s in f["segment"][int(row[8]):int(row[8]) + int(row[9])]]
            announced_end = max([fork_at + int(row[5])] + [int(s[3]) for s in f["segment"][int(row[8]):int(row[8]) + int(row[9])]])
            if not done and announced_end < tokens:
                segments.append(("generated", announced_end, tokens))
            while segments and segments[-1][1] == segments[-1][2]:
                segments.pop()
            name = lambda at, n: self._names[int(at):int(at) + int(n)].decode("utf-8", "replace")
            spans = [{"kind": name(s[3], s[4]), "begin": int(s[1]), "end": int(s[2]), "label": name(s[5], s[6])}
                     for s in f["span"][int(row[10]):int(row[10]) + int(row[11])] if int(s[2]) <= tokens]
            inherited = 0
            if parent >= 0 and tokens:
                above = self.sequences[parent]
                spans = [s for s in above["spans"] if s["end"] <= fork_at] + spans
                if not any(b < fork_at and e > b for _, b, e in segments):
                    first = [(r, b, min(e, fork_at)) for r, b, e in above["segments"] if b < fork_at]
                    inherited = len(first)
                    segments = first + segments
            self.sequences.append({"id": id_, "parent": parent, "fork_at": fork_at, "tokens": tokens, "own_rows": rows,
                                   "segments": segments, "spans": spans, "inherited": inherited,
                                   "next_token": _signed(row[7]), "done": done, "_own": own[id_]})
        while self.sequences and not self.sequences[-1]["own_rows"] and not self.sequences[-1]["done"]:
            self.sequences.pop()


def _text(value):
    return (value.decode() if isinstance(value, bytes) else str(value)).rstrip("\0")


# ---------------------------------------------------------------------------------------------------------------------


def results(path, kind="result"):
    """Rows of a results file, a ragged last line left out; kind=None gives rows of every type."""
    rows = []
    with open(path, "rb") as f:
        for line in f:
            if not line.endswith(b"\n"):
                break
            if line.strip():
                row = json.loads(line)
                if kind is None or row.get("type") == kind:
                    rows.append(row)
    try:
        import pandas
    except ImportError:
        return rows
    return pandas.DataFrame(rows)


def kept(path, job, layer, what="k"):
    """State of every token of a plan, uint8 [heads, T]: 0 dropped, 1 exact, 2 merged, 3 coded, 4 recomputable, 5 expired,
    +16 in host memory, +32 on disk. what='v' gives the values' states (the keys' where they do not differ)."""
    with h5py.File(path, "r") as f:
        group = f[f"jobs/{job}"]
        if what == "v" and f"V/L{layer}" in group:
            return group[f"V/L{layer}"][:]
        return group[f"L{layer}"][:]


# ---------------------------------------------------------------------------------------------------------------------


def write_trace(path, card, sequences, provenance=None):
    """Writes a finished trace that kvgrind reads.

    card: dict with layers, query_heads, kv_heads, head_dim, dtype ('f32' | 'f16' | 'bf16'), scale; optional family, name,
      hidden, intermediate, vocab, max_positions, softcap, rope (list of {inv_freq, attention_factor, type}),
      layer (list of {window, rope_set}), sinks, model_hash.
    sequences: list of dicts with tokens [T], k and v [T, L, Hk, D], lse [T, L, Hq]; optional q [R, L, Hq, D] with
      q_positions [R] (all positions without it), nll [T], hidden_norm [T, L + 1], attn_in_norm [T, L], text (list of bytes),
      segments (list of (role, begin, end)), spans (list of dicts kind, begin, end, label), next_token.
    Column sums, query statistics, maps, top-64 log-probabilities and W_O are left out, and the file says so.
    """
    path = os.fspath(path)
    if os.path.exists(path):
        raise FileExistsError(path)
    full = {"family": "other", "name": "", "hidden": 0, "intermediate": 0, "vocab": 0, "max_positions": 0, "softcap": 0.0,
            "rope": [], "sinks": [], "model_hash": ""} | dict(card)
    full["rope"] = [{"type": r.get("type", "default"), "pairing": "half_split",
                     "attention_factor": float(r.get("attention_factor", 1.0)),
                     "inv_freq": [float(np.float32(x)) for x in r["inv_freq"]]} for r in full["rope"]]
    full.setdefault("layer", [{"window": 0, "rope_set": 0} for _ in range(full["layers"])])
    L, Hq, Hk, D, dtype = (full[x] for x in ("layers", "query_heads", "kv_heads", "head_dim", "dtype"))
    file_type = {"f32": "<f4", "f16": "<f2", "bf16": "<u2"}[dtype]
    with_q = any("q" in s for s in sequences)
    with_text = bool(sequences) and all("text" in s for s in sequences)
    content = {"queries": with_q, "column_sums": False, "query_statistics": False, "pooled_maps": False,
               "logits_top64": False, "output_projection": False, "text": with_text}
    total = sum(len(s["tokens"]) for s in sequences)
    C = max(16, min((1 << 20) // (D * np.dtype(file_type).itemsize), 1024) // 16 * 16)
    C = min(C, max(16, (total + 15) // 16 * 16))
    absent = ["column sums", "query statistics", "pooled attention maps", "reference log-probabilities",
              "output projection", "largest mass error"]
    absent += [] if with_q else ["queries"]
    absent += [] if with_text else ["text of the tokens"]

    part = path + ".part"
    with h5py.File(part, "x", libver="latest") as f:
        text_attribute = lambda name, value: f.attrs.create(name, np.bytes_(value or "\0"), dtype=f"S{max(1, len(value))}")
        text_attribute("kvgrind_format", "kvgrind-trace")
        f.attrs.create("version", np.array([1, 0], "<i8"))
        text_attribute("required_features", "")
        text_attribute("optional_features", "")

        def blob(name, text, room=0, summed=True):
            data = np.frombuffer((text or "\0").encode().ljust(room, b"\0"), np.uint8)
            f.create_dataset(name, data=data)
            if summed:
                f[name].attrs.create("xxh3", np.uint64(_sum_of(data)))

        names = ""
        for s in sequences:
            for span in s.get("spans", []):
                names += span["kind"] + span.get("label", "")
        blob("card", json.dumps(full))
        blob("header", json.dumps({"content": content, "announced_rows": total, "chunk_rows": C,
                                   "output_projection_dtype": "f32", "queries": {"kind": "all" if with_q else "none"}}))
        blob("provenance", json.dumps({"written_by": "kvgrind.py"} | dict(provenance or {})))
        blob("names", names)
        blob("not_recorded", json.dumps(absent), 8192, False)

        def growing(name, kind, inner, chunk):
            return f.create_dataset(name, (0, *inner), kind, maxshape=(None, *inner), chunks=(chunk, *inner))

        for name in ("commit", "sequence", "segment", "span", "extent"):
            growing(name, "<u8", (16,), 16)
        kv_chunk = dict(dtype=file_type, chunks=(C, 1, 1, D))
        for name in ("k", "v"):
            f.create_dataset(name, (0, L, Hk, D), maxshape=(None, L, Hk, D), **kv_chunk)
        if with_q:
            f.create_dataset("q", (0, L, Hq, D), maxshape=(None, L, Hq, D), **kv_chunk)
            growing("q_row", "<i8", (), 1024)
        for name in ("k", "v", "q"):
            if name in f and dtype == "bf16":
                f[name].attrs.create("kvg_dtype", np.bytes_("bf16"), dtype="S4")
        f.create_dataset("lse", (0, L, Hq), "<f4", maxshape=(None, L, Hq), chunks=(min(C, 1024), 1, Hq))
        for name, kind, inner in (("tokens", "<i4", ()), ("pos", "<i8", ()), ("seq", "<i4", ()), ("nll", "<f4", ()),
                                  ("hidden_norm", "<f4", (L + 1,)), ("attn_in_norm", "<f4", (L,))):
            growing(name, kind, inner, C)
        if with_text:
            growing("text", "u1", (), 4096)
            growing("text_end", "<i8", (), C)
        growing("tok_sums", "<u8", (L * (2 * Hk + Hq) + L + len(_SMALL),), 16)

        def append(name, data):
            d, data = f[name], np.asarray(data)
            first = d.shape[0]
            d.resize(first + len(data), axis=0)
            d[first:] = data
            return first

        def row(values):
            out = np.zeros(16, np.uint64)
            for i, value in values.items():
                out[i] = np.uint64(int(value) & _M)
            out[15] = np.uint64(_sum_of(out[:15]))
            return out

        counts, chain = [0] * 4, [0] * 4

        def commit(stream, values):
            sealed = row(values | {0: stream, 1: counts[stream], 14: chain[stream]})
            append("commit", sealed[None])
            counts[stream] += 1
            chain[stream] = int(sealed[15])

        # Announced tables first, then the tokens, then each sequence's end.
        at, span_at = 0, 0
        for i, s in enumerate(sequences):
            segments = s.get("segments", [("context", 0, len(s["tokens"]))])
            first_segment, first_span = f["segment"].shape[0], f["span"].shape[0]
            for role, begin, end in segments:
                append("segment", row({0: i, 1: _ROLES.index(role), 2: begin, 3: end})[None])
            for span in s.get("spans", []):
                kind, label = len(span["kind"].encode()), len(span.get("label", "").encode())
                append("span", row({0: i, 1: span["begin"], 2: span["end"], 3: span_at, 4: kind, 5: span_at + kind, 6: label})[None])
                span_at += kind + label
            append("sequence", row({0: i, 1: -1, 3: -1, 5: len(s["tokens"]), 7: -1, 8: first_segment, 9: len(segments),
                                    10: first_span, 11: len(s.get("spans", []))})[None])
        text_at, query_at, ends = 0, 0, []
        for i, s in enumerate(sequences):
            n, first_row = len(s["tokens"]), at
            arrays = {"k": _to_file(s["k"], dtype), "v": _to_file(s["v"], dtype)}
            chosen = np.asarray(s.get("q_positions", np.arange(n) if "q" in s else []), np.int64)
            queries = _to_file(s["q"], dtype) if "q" in s else np.zeros((0, L, Hq, D), file_type)
            nan = lambda *shape: np.full(shape, np.nan, np.float32)
            small = {"tokens": np.asarray(s["tokens"], "<i4"), "pos": np.arange(n, dtype="<i8"), "seq": np.full(n, i, "<i4"),
                     "nll": np.asarray(s.get("nll", nan(n)), "<f4"),
                     "hidden_norm": np.asarray(s.get("hidden_norm", nan(n, L + 1)), "<f4"),
                     "attn_in_norm": np.asarray(s.get("attn_in_norm", nan(n, L)), "<f4")}
            lse = np.asarray(s["lse"], "<f4")
            done = 0
            while done < n:
                count = min(n - done, C - at % C)
                part_rows = slice(done, done + count)
                sums = np.zeros(f["tok_sums"].shape[1], np.uint64)
                for base, name in ((0, "k"), (L * Hk, "v")):
                    append(name, arrays[name][part_rows])
                    for l in range(L):
                        for h in range(Hk):
                            sums[base + l * Hk + h] = _sum_of(arrays[name][part_rows, l, h])
                a, b = np.searchsorted(chosen, (done, done + count))
                if with_q:
                    append("q", queries[a:b])
                    for l in range(L):
                        for h in range(Hq):
                            sums[2 * L * Hk + l * Hq + h] = _sum_of(queries[a:b, l, h])
                append("lse", lse[part_rows])
                base = L * (2 * Hk + Hq)
                for l in range(L):
                    sums[base + l] = _sum_of(lse[part_rows, l])
                piece = {name: data[part_rows] for name, data in small.items()}
                if with_text:
                    texts = [bytes(t) for t in s["text"][part_rows]]
                    piece["text"] = np.frombuffer(b"".join(texts), np.uint8)
                    piece["text_end"] = text_at + np.cumsum([len(t) for t in texts]).astype("<i8")
                if with_q:
                    piece["q_row"] = chosen[a:b] - done + at
                for name, data in piece.items():
                    append(name, data)
                    sums[base + L + _SMALL.index(name)] = _sum_of(data)
                append("tok_sums", sums[None])
                edges = np.cumsum([0, L * Hk, L * Hk, L * Hq, L, len(_SMALL)])
                text_bytes = len(piece.get("text", b""))
                commit(1, {2: at, 3: count, 4: query_at, 5: b - a, 6: text_at, 7: text_bytes, 13: i}
                       | {8 + j: _sum_of(sums[edges[j]:edges[j + 1]]) for j in range(5)})
                text_at, query_at = text_at + text_bytes, query_at + int(b - a)
                done, at = done + count, at + count
            ends.append((first_row, n))
        for i, s in enumerate(sequences):
            announced = f["sequence"][i]
            first_row, n = ends[i]
            extent = row({0: i, 1: first_row, 2: n, 3: 0})
            first_extent = append("extent", extent[None]) if n else f["extent"].shape[0]
            last = row({0: i, 1: -1, 3: first_row if n else -1, 4: n, 5: n, 7: s.get("next_token", -1), 8: announced[8],
                        9: announced[9], 10: announced[10], 11: announced[11], 12: 1})
            place = append("sequence", last[None])
            segments = f["segment"][int(announced[8]):int(announced[8]) + int(announced[9])]
            tables = np.concatenate([last[None], segments] + ([extent[None]] if n else []))
            commit(2, {2: i, 3: place, 4: first_extent, 5: 1 if n else 0, 10: _sum_of(tables)})
        status = np.zeros(8, np.uint64)
        status[:4] = 1, total, f["commit"].shape[0], total
        status[6] = np.array(np.nan, "<f8").view(np.uint64)
        status[7] = np.uint64(_sum_of(status[:7]))
        f.create_dataset("status", data=status[None])
    os.rename(part, path)
