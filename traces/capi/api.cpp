// The C border: every exception becomes a code and a text of the calling thread.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <mutex>
#include <new>
#include <string>

#include "core/error.h"
#include "kernels/attention/attention_cuda.h"
#include "traces/capi/client.h"
#include "traces/capi/kvgrind_record.h"

using kvgrind::Category;
using kvgrind::DType;
using kvgrind::Error;

struct kvg_recorder {
  std::mutex mutex;
  std::unique_ptr<kvgrind::traces::Client> client;
  bool closed = false;
};

namespace {

std::string& last_error() {
  thread_local std::string text;
  return text;
}

int failed(int code, std::string text) {
  try {
    last_error() = std::move(text);
  } catch (...) {
  }
  return code;
}

int code_of(Category category) {
  // "jobs failed" stands for a writer that is no more.
  return category == Category::jobs_failed ? static_cast<int>(KVG_WRITER_GONE) : exit_code(category);
}

template <class F>
int guarded(F&& work) noexcept {
  try {
    work();
    return KVG_OK;
  } catch (const kvgrind::traces::NoRoom&) {
    return failed(KVG_NO_ROOM, "the spool has no room for this pass");
  } catch (const Error& error) {
    return failed(code_of(error.category()), error.what());
  } catch (const std::bad_alloc&) {
    return failed(KVG_UNAVAILABLE, "out of memory");
  } catch (const std::exception& error) {
    return failed(KVG_INTERNAL, error.what());
  } catch (...) {
    return failed(KVG_INTERNAL, "an unknown fault");
  }
}

template <class F>
int with(kvg_recorder* recorder, F&& work) noexcept {
  if (recorder == nullptr) return failed(KVG_USAGE, "recording: found no recorder (null), expected one of kvg_new");
  return guarded([&] {
    const std::lock_guard lock(recorder->mutex);
    work(*recorder->client);
  });
}

int null_argument(const char* name) {
  return failed(KVG_USAGE, fmt::format("recording: found no {} (null), expected one", name));
}

DType dtype_of(int dtype) {
  if (dtype < KVG_F32 || dtype > KVG_BF16)
    throw Error(Category::usage, {.doing = "recording",
                                  .on = fmt::format("dtype {}", dtype),
                                  .found = "no such type",
                                  .expected = "KVG_F32, KVG_F16 or KVG_BF16"});
  return static_cast<DType>(dtype);
}

// A caller built against an older header passes a shorter struct: the rest stays as it is here.
template <class T>
T complete(const T* given) {
  T out{};
  if (given) std::memcpy(&out, given, std::min(given->size, sizeof(T)));
  return out;
}

}  // namespace

extern "C" {

int kvg_api_version(void) { return KVG_API_VERSION; }
int kvg_has_cuda(void) { return kvgrind::kernels::built_with_cuda() && kvgrind::kernels::device_count() > 0 ? 1 : 0; }
const char* kvg_last_error(void) { return last_error().c_str(); }

int kvg_new(const kvg_options* options, kvg_recorder** out) {
  if (out == nullptr) return null_argument("place for the recorder");
  *out = nullptr;
  return guarded([&] {
    auto recorder = std::make_unique<kvg_recorder>();
    recorder->client = std::make_unique<kvgrind::traces::Client>(complete(options));
    *out = recorder.release();
  });
}

int kvg_prepare(kvg_recorder* recorder, int32_t device) {
  return with(recorder, [&](auto& client) { client.prepare(device); });
}

int kvg_token_text(kvg_recorder* recorder, const char* text, const int64_t* end, int64_t tokens) {
  if (text == nullptr || end == nullptr) return null_argument("text");
  return with(recorder, [&](auto& client) { client.token_text(text, end, tokens); });
}

int kvg_output_projection(kvg_recorder* recorder, int64_t layer, const void* weights, int64_t hidden, int64_t width,
                          int32_t dtype) {
  if (weights == nullptr) return null_argument("weights");
  return with(recorder,
              [&](auto& client) { client.output_projection(layer, weights, hidden, width, dtype_of(dtype)); });
}

int kvg_open(kvg_recorder* recorder, const char* path, const char* plan_json) {
  if (path == nullptr || plan_json == nullptr) return null_argument("path or plan");
  return with(recorder, [&](auto& client) { client.open(path, plan_json); });
}

int kvg_describe(kvg_recorder* recorder, int64_t sequence, const char* sequence_json) {
  if (sequence_json == nullptr) return null_argument("description");
  return with(recorder, [&](auto& client) { client.describe(sequence, sequence_json); });
}

int kvg_begin(kvg_recorder* recorder, const kvg_part* parts, int64_t n_parts, int32_t id_bytes, int32_t decode,
              int32_t device, void* stream) {
  return with(recorder, [&](auto& client) { client.begin(parts, n_parts, id_bytes, decode != 0, device, stream); });
}

int kvg_layer(kvg_recorder* recorder, int64_t layer, const kvg_layer_part* parts, int32_t device, void* stream) {
  return with(recorder, [&](auto& client) { client.layer(layer, parts, device, stream); });
}

int kvg_end(kvg_recorder* recorder, const kvg_end_rows* rows, int32_t device, void* stream) {
  return with(recorder, [&](auto& client) {
    const kvg_end_rows given = complete(rows);
    client.end(rows ? &given : nullptr, device, stream);
  });
}

int kvg_column_sums(kvg_recorder* recorder, int64_t sequence, int64_t layer, int64_t segment, const float* sums,
                    int64_t keys, int32_t device, void* stream) {
  if (sums == nullptr) return null_argument("sums");
  return with(recorder,
              [&](auto& client) { client.column_sums(sequence, layer, segment, sums, keys, device, stream); });
}

int kvg_sequence_done(kvg_recorder* recorder, int64_t sequence, int32_t next_token) {
  return with(recorder, [&](auto& client) { client.sequence_done(sequence, next_token); });
}

int kvg_remark(kvg_recorder* recorder, const char* line) {
  if (line == nullptr) return null_argument("line");
  return with(recorder, [&](auto& client) { client.remark(line); });
}

int kvg_drain(kvg_recorder* recorder) {
  return with(recorder, [](auto& client) { client.drain(); });
}

int kvg_get_status(kvg_recorder* recorder, kvg_status* status) {
  if (status == nullptr) return null_argument("status");
  return with(recorder, [&](auto& client) {
    kvg_status own{};
    client.status(own);
    const std::size_t size = std::min(status->size, sizeof own);
    own.size = status->size;
    std::memcpy(status, &own, size);
  });
}

int kvg_pass_bytes(kvg_recorder* recorder, int64_t rows, int64_t queries, int64_t logit_rows, int64_t* bytes) {
  if (bytes == nullptr) return null_argument("place for the bytes");
  return with(recorder, [&](auto& client) { *bytes = client.pass_bytes(rows, queries, logit_rows); });
}

int kvg_close(kvg_recorder* recorder) {
  return with(recorder, [&](auto& client) { client.close(true); });
}

int kvg_interrupt(kvg_recorder* recorder) {
  return with(recorder, [&](auto& client) { client.close(false); });
}

void kvg_free(kvg_recorder* recorder) { delete recorder; }

int kvg_lse(const kvg_lse_params* params, int32_t device, void* stream) {
  if (params == nullptr) return null_argument("parameters");
  return guarded([&] {
    const kvg_lse_params p = complete(params);
    if (device < 0)
      throw Error(Category::usage, {.doing = "computing log-sum-exp",
                                    .found = fmt::format("device {}", device),
                                    .expected = "a CUDA device",
                                    .next = "on the host, give recorded passes the model's own values"});
    const kvgrind::kernels::DeviceGuard guard(device);
    kvgrind::kernels::AttentionPrefill a;
    a.shape = {.dtype = dtype_of(p.dtype),
               .query_heads = p.query_heads,
               .cache_heads = p.kv_heads,
               .head_dim = p.head_dim,
               .scale = p.scale,
               .softcap = p.softcap,
               .window = p.window,
               .sinks = p.sinks};
    a.q = p.q, a.n = p.n, a.first = p.first;
    a.cache = {p.k, p.k, p.head_stride};
    a.out = p.scratch, a.lse = p.lse;
    kvgrind::kernels::attention_prefill_cuda(a, static_cast<kvgrind::kernels::DeviceStream>(stream));
  });
}

}  // extern "C"
