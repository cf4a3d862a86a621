/* Recording from any program: a plain C interface to kvgrind's traces (`.kvt`, see traces/SCHEMA.md).
 *
 * The file is written by a child process (kvgrind-record-writer), which is fed through a bounded piece of shared
 * memory, the spool. Neither a crash of the writer nor a full disk harms the caller: every function then returns a
 * code, and the file's committed prefix stays readable. If the caller dies, the writer ends the file with what it has
 * received.
 *
 * Order of calls
 *   kvg_new → [kvg_prepare] [kvg_token_text] [kvg_output_projection …] → kvg_open →
 *     for each forward pass: kvg_begin → kvg_layer for layer 0 … L − 1 → kvg_end
 *     for each sequence, once: kvg_sequence_done
 *   → kvg_close → kvg_free
 * A pass feeds n consecutive tokens of one sequence, or of several at once (a batch): one kvg_part each.
 *
 * Pointers of tensors may be host memory (device = −1) or memory of CUDA device `device`; device memory is read by work
 * queued on `stream` before the call returns, so it may be reused by later work on that stream. No call waits for the
 * device; calls wait when the spool is full and the pressure is `block`.
 *
 * All functions are safe to call from several threads, one at a time takes effect. None throws, prints or exits. A
 * null handle is KVG_USAGE.
 */
#ifndef KVGRIND_RECORD_H
#define KVGRIND_RECORD_H
#include <stddef.h>
#include <stdint.h>

#if defined(__cplusplus)
extern "C" {
#endif
#define KVG_API __attribute__((visibility("default")))
#define KVG_API_VERSION 1

enum kvg_code {
  KVG_OK = 0,
  KVG_USAGE = 2,        /* wrong argument or order of calls */
  KVG_MISSING = 3,      /* a file that is not there, the writer program among them */
  KVG_DAMAGED = 4,      /* a plan or card that cannot be read */
  KVG_WRITE = 5,        /* cannot write, disk full: what was committed stays */
  KVG_UNAVAILABLE = 7,  /* device or memory */
  KVG_NO_ROOM = 20,     /* pressure `drop`: this pass does not fit now; nothing happened */
  KVG_WRITER_GONE = 21, /* the writer process died */
  KVG_INTERNAL = 70
};
enum kvg_dtype { KVG_F32 = 0, KVG_F16 = 1, KVG_BF16 = 2 };
enum kvg_pressure {
  KVG_BLOCK = 0, /* wait until the spool has room (counted) */
  KVG_DROP =
      1, /* kvg_begin answers KVG_NO_ROOM: the caller leaves out whole steps, and may bring their K and V later */
  KVG_SHRINK = 2 /* as the spool fills, keep every 4th query, then none; then wait */
};

typedef struct kvg_recorder kvg_recorder;

typedef struct kvg_options {
  size_t size;         /* sizeof(kvg_options) */
  int64_t spool_bytes; /* of shared memory; 0 = 1 GiB. Touched only as far as used; pinned whole once a device is fed */
  int32_t pressure;    /* enum kvg_pressure */
  const char* writer;  /* path of kvgrind-record-writer; null = $KVGRIND_RECORD_WRITER, or beside this library */
} kvg_options;

/* n tokens of one sequence at positions first, first + 1, …; ids [n]. */
typedef struct kvg_part {
  int64_t sequence, first, n;
  const void* ids;
  const uint8_t* keep_query; /* [n], host: 0 = this row's query is lost (its LSE is NaN); null = none is */
} kvg_part;

/* Row i of head h begins at data + i · row_stride + h · head_stride (elements); the D elements of a row are dense. */
typedef struct kvg_rows {
  const void* data;
  int64_t row_stride, head_stride;
} kvg_rows;

/* One layer of one part, in the pass's order of parts. */
typedef struct kvg_layer_part {
  kvg_rows q, k, v;          /* post-RoPE, the n new rows; q may be null when no query is recorded */
  const float* lse;          /* [n, Hq] natural log Σ exp(logit), sinks included */
  const float* hidden_norm;  /* [n] L2 of the layer's input residual; may be null */
  const float* attn_in_norm; /* [n] L2 of the attention's input after its norm; may be null */
} kvg_layer_part;

typedef struct kvg_end_rows {
  size_t size; /* sizeof(kvg_end_rows) */
  int64_t logit_rows,
      vocab; /* logits [logit_rows, vocab] dense, of pass rows logit_row[…] (parts one behind the other) */
  const int64_t* logit_row; /* host */
  const void* logits;
  int32_t logits_dtype;
  const float* hidden_norm;  /* [rows of the pass, L + 1], the last column of the final residual; may be null */
  const float* attn_in_norm; /* [rows of the pass, L]; may be null */
} kvg_end_rows;

typedef struct kvg_status {
  size_t size; /* in: sizeof(kvg_status) */
  int32_t writer_pid;
  int32_t code;           /* of the first failure, KVG_OK before */
  int64_t committed_rows; /* token rows that a reader of the file can rely on */
  int64_t spool_bytes, free_bytes, peak_bytes;
  int64_t messages, bytes; /* handed to the spool */
  int64_t waits;           /* calls that found the spool full */
  double waited_ms;
  int64_t refused_passes; /* kvg_begin answered KVG_NO_ROOM */
  int64_t lost_queries;   /* rows whose query the caller marked as lost */
  int64_t shrunk_queries; /* queries left out because the spool was filling */
} kvg_status;

KVG_API int kvg_api_version(void);
/* Whether device pointers can be fed. */
KVG_API int kvg_has_cuda(void);
/* Text of the calling thread's last failure; valid until its next call. Never null. */
KVG_API const char* kvg_last_error(void);

/* Starts the writer. */
KVG_API int kvg_new(const kvg_options* options, kvg_recorder** out);
/* Page-locks the spool and makes the device's copy stream now, which costs up to a second for some GiB; otherwise the
 * first pass fed from that device waits for it. KVG_UNAVAILABLE without CUDA. */
KVG_API int kvg_prepare(kvg_recorder* recorder, int32_t device);
/* The bytes of every token of the vocabulary: token i is text[end[i − 1], end[i]). */
KVG_API int kvg_token_text(kvg_recorder* recorder, const char* text, const int64_t* end, int64_t tokens);
/* W_O of a layer [hidden, Hq · D], host memory, dense. Layers in order. */
KVG_API int kvg_output_projection(kvg_recorder* recorder, int64_t layer, const void* weights, int64_t hidden,
                                  int64_t width, int32_t dtype);
/* Creates the file (`<path>.part` until kvg_close) and waits for it. plan_json:
 *  {"card": the model card as in traces/SCHEMA.md,
 *   "sequences": [{"ids": […] or "tokens": n, "decode": n, "parent": −1, "fork_at": 0,
 *                  "segments": [{"role","begin","end"}], "spans": [{"kind","begin","end","label"}]}],
 *   "spare_sequences": sequences to be described by kvg_describe before they are fed,
 *   "options": {"queries": "all|window|sample|none", "query_window", "query_sample_share", "fsync": "never|chunk|end",
 *               "statistics": true — column sums, query statistics and pooled maps, computed by the writer on the CPU
 *               from all queries: for short recordings —, "column_sums": true — given by kvg_column_sums —,
 *               "logits": true, "output_projection": true, "reserve_bytes", "force", "anonymous",
 *               "wait": false — does not wait for the file; a later call tells if it could not be made —},
 *   "provenance": {…}} */
KVG_API int kvg_open(kvg_recorder* recorder, const char* path, const char* plan_json);
/* What is known by now of a sequence that is not done; one object as in plan_json's "sequences", without spans. */
KVG_API int kvg_describe(kvg_recorder* recorder, int64_t sequence, const char* sequence_json);

/* id_bytes: 4 or 8. decode: fed one at a time by generation, however many steps are handed over at once. */
KVG_API int kvg_begin(kvg_recorder* recorder, const kvg_part* parts, int64_t n_parts, int32_t id_bytes, int32_t decode,
                      int32_t device, void* stream);
KVG_API int kvg_layer(kvg_recorder* recorder, int64_t layer, const kvg_layer_part* parts, int32_t device, void* stream);
/* `rows` may be null. */
KVG_API int kvg_end(kvg_recorder* recorder, const kvg_end_rows* rows, int32_t device, void* stream);
/* Before kvg_sequence_done: attention that each of `keys` keys received from the sequence's prefill queries of segment
 * `segment`, or of none (−1): sums [Hq, keys] of one layer. */
KVG_API int kvg_column_sums(kvg_recorder* recorder, int64_t sequence, int64_t layer, int64_t segment, const float* sums,
                            int64_t keys, int32_t device, void* stream);
/* next_token: sampled last and never fed; −1 = none. */
KVG_API int kvg_sequence_done(kvg_recorder* recorder, int64_t sequence, int32_t next_token);
/* One line for the file's list of what was not recorded. */
KVG_API int kvg_remark(kvg_recorder* recorder, const char* line);

/* Waits until the writer has taken everything. */
KVG_API int kvg_drain(kvg_recorder* recorder);
KVG_API int kvg_get_status(kvg_recorder* recorder, kvg_status* status);
/* Bytes of spool that one pass of so many rows and queries needs at most. */
KVG_API int kvg_pass_bytes(kvg_recorder* recorder, int64_t rows, int64_t queries, int64_t logit_rows, int64_t* bytes);
/* Ends the recording: complete, verified and renamed, or (kvg_interrupt) as far as it is. Waits for the writer. */
KVG_API int kvg_close(kvg_recorder* recorder);
KVG_API int kvg_interrupt(kvg_recorder* recorder);
/* Without close: interrupts. Accepts null. */
KVG_API void kvg_free(kvg_recorder* recorder);

/* Log-sum-exp of attention on a CUDA device, for sources whose own attention does not give it: n queries at positions
 * first … over keys 0 …, a plain causal pass of kvgrind's attention kernel (f32 or bf16). q [n, Hq, D] dense; key j of
 * head h at k + h · head_stride + j · D; lse [n, Hq]; scratch [n, Hq, D] of the same type is overwritten. */
typedef struct kvg_lse_params {
  size_t size;
  int32_t dtype;
  int64_t query_heads, kv_heads, head_dim, n, first, head_stride, window;
  float scale, softcap;
  const float* sinks; /* [Hq] on the device, or null */
  const void *q, *k;
  float* lse;
  void* scratch;
} kvg_lse_params;
KVG_API int kvg_lse(const kvg_lse_params* params, int32_t device, void* stream);

#if defined(__cplusplus)
}
#endif
#endif
