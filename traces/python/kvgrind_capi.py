"""ctypes face of libkvgrind_record (traces/capi/kvgrind_record.h). Numbers in, codes out; nothing of PyTorch here."""
import ctypes as c
import os
from pathlib import Path

OK, USAGE, WRITE, NO_ROOM, WRITER_GONE = 0, 2, 5, 20, 21
F32, F16, BF16 = 0, 1, 2
BLOCK, DROP, SHRINK = 0, 1, 2


class RecordError(RuntimeError):
    """A recording that cannot go on; `code` is one of kvg_code."""

    def __init__(self, message, code=USAGE):
        super().__init__(message)
        self.code = code


class Options(c.Structure):
    _fields_ = [("size", c.c_size_t), ("spool_bytes", c.c_int64), ("pressure", c.c_int32), ("writer", c.c_char_p)]


class Part(c.Structure):
    _fields_ = [("sequence", c.c_int64), ("first", c.c_int64), ("n", c.c_int64), ("ids", c.c_void_p),
                ("keep_query", c.c_void_p)]


class Rows(c.Structure):
    _fields_ = [("data", c.c_void_p), ("row_stride", c.c_int64), ("head_stride", c.c_int64)]


class LayerPart(c.Structure):
    _fields_ = [("q", Rows), ("k", Rows), ("v", Rows), ("lse", c.c_void_p), ("hidden_norm", c.c_void_p),
                ("attn_in_norm", c.c_void_p)]


class EndRows(c.Structure):
    _fields_ = [("size", c.c_size_t), ("logit_rows", c.c_int64), ("vocab", c.c_int64), ("logit_row", c.c_void_p),
                ("logits", c.c_void_p), ("logits_dtype", c.c_int32), ("hidden_norm", c.c_void_p),
                ("attn_in_norm", c.c_void_p)]


class Status(c.Structure):
    _fields_ = [("size", c.c_size_t), ("writer_pid", c.c_int32), ("code", c.c_int32), ("committed_rows", c.c_int64),
                ("spool_bytes", c.c_int64), ("free_bytes", c.c_int64), ("peak_bytes", c.c_int64),
                ("messages", c.c_int64), ("bytes", c.c_int64), ("waits", c.c_int64), ("waited_ms", c.c_double),
                ("refused_passes", c.c_int64), ("lost_queries", c.c_int64), ("shrunk_queries", c.c_int64)]


class LseParams(c.Structure):
    _fields_ = [("size", c.c_size_t), ("dtype", c.c_int32), ("query_heads", c.c_int64), ("kv_heads", c.c_int64),
                ("head_dim", c.c_int64), ("n", c.c_int64), ("first", c.c_int64), ("head_stride", c.c_int64),
                ("window", c.c_int64), ("scale", c.c_float), ("softcap", c.c_float), ("sinks", c.c_void_p),
                ("q", c.c_void_p), ("k", c.c_void_p), ("lse", c.c_void_p), ("scratch", c.c_void_p)]


_P, _I, _L, _S = c.c_void_p, c.c_int32, c.c_int64, c.c_char_p
_SIGNATURES = {
    "kvg_new": [c.POINTER(Options), c.POINTER(_P)],
    "kvg_prepare": [_P, _I],
    "kvg_token_text": [_P, _S, _P, _L],
    "kvg_output_projection": [_P, _L, _P, _L, _L, _I],
    "kvg_open": [_P, _S, _S],
    "kvg_describe": [_P, _L, _S],
    "kvg_begin": [_P, c.POINTER(Part), _L, _I, _I, _I, _P],
    "kvg_layer": [_P, _L, c.POINTER(LayerPart), _I, _P],
    "kvg_end": [_P, c.POINTER(EndRows), _I, _P],
    "kvg_column_sums": [_P, _L, _L, _L, _P, _L, _I, _P],
    "kvg_sequence_done": [_P, _L, _I],
    "kvg_remark": [_P, _S],
    "kvg_drain": [_P],
    "kvg_get_status": [_P, c.POINTER(Status)],
    "kvg_pass_bytes": [_P, _L, _L, _L, c.POINTER(_L)],
    "kvg_close": [_P],
    "kvg_interrupt": [_P],
    "kvg_lse": [c.POINTER(LseParams), _I, _P],
}
_loaded = {}


def find_library(path=None):
    """`path`, $KVGRIND_RECORD_LIBRARY, beside this file, or in a build folder of the tree this file lies in."""
    if path or os.environ.get("KVGRIND_RECORD_LIBRARY"):
        return str(path or os.environ["KVGRIND_RECORD_LIBRARY"])
    here = Path(__file__).resolve().parent
    for folder in (here, here.parents[1] / "build" / "bin", here.parents[1] / "lib"):
        if (folder / "libkvgrind_record.so").exists():
            return str(folder / "libkvgrind_record.so")
    raise RecordError("libkvgrind_record.so: not found; build the target kvgrind_record, or set KVGRIND_RECORD_LIBRARY", 3)


def load(path=None):
    name = find_library(path)
    if name not in _loaded:
        library = c.CDLL(name)
        for function, arguments in _SIGNATURES.items():
            getattr(library, function).argtypes = arguments
            getattr(library, function).restype = c.c_int
        library.kvg_free.argtypes, library.kvg_free.restype = [_P], None
        library.kvg_last_error.restype = _S
        if library.kvg_api_version() != 1:
            raise RecordError(f"{name}: interface {library.kvg_api_version()}, this module knows 1")
        _loaded[name] = library
    return _loaded[name]


class Recorder:
    """A kvg_recorder; every method raises RecordError."""

    def __init__(self, library, spool_bytes=0, pressure=BLOCK, writer=None):
        self.library = library
        self.handle = _P()
        options = Options(c.sizeof(Options), spool_bytes, pressure, writer.encode() if writer else None)
        self.call("kvg_new", c.byref(options), c.byref(self.handle), bare=True)

    def call(self, name, *arguments, bare=False):
        function = getattr(self.library, name)
        code = function(*arguments) if bare else function(self.handle, *arguments)
        if code != OK:
            raise RecordError(self.library.kvg_last_error().decode(errors="replace"), code)

    def status(self):
        out = Status(size=c.sizeof(Status))
        self.call("kvg_get_status", c.byref(out))
        return {name: getattr(out, name) for name, _ in Status._fields_ if name != "size"}

    def pass_bytes(self, rows, queries, logit_rows):
        out = _L()
        self.call("kvg_pass_bytes", rows, queries, logit_rows, c.byref(out))
        return out.value

    def free(self):
        if self.handle:
            self.library.kvg_free(self.handle)
            self.handle = _P()
