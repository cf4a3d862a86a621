// A model that is not there: feeds a recorder with random but reproducible numbers, and keeps what it fed.
#pragma once
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include "core/rng.h"
#include "traces/kvt/recorder.h"
#include "traces/kvt/trace.h"

namespace kvgrind::tests {

struct Shape {
  std::int64_t layers = 2, query_heads = 4, kv_heads = 2, head_dim = 8, hidden = 24, vocab = 100;
  DType dtype = DType::f32;
};

inline ModelCard card_of(const Shape& shape) {
  ModelCard card;
  card.family = "llama";
  card.name = "driver";
  card.layers = shape.layers;
  card.query_heads = shape.query_heads;
  card.kv_heads = shape.kv_heads;
  card.head_dim = shape.head_dim;
  card.hidden = shape.hidden;
  card.intermediate = 2 * shape.hidden;
  card.vocab = shape.vocab;
  card.max_positions = 1 << 20;
  card.dtype = shape.dtype;
  card.scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim));
  RopeSet set;
  for (std::int64_t m = 0; m < shape.head_dim / 2; ++m)
    set.inv_freq.push_back(std::pow(10000.0f, -2.0f * static_cast<float>(m) / static_cast<float>(shape.head_dim)));
  card.rope = {set};
  card.layer.assign(static_cast<std::size_t>(shape.layers), LayerCard{});
  card.model_hash = "0123456789abcdef";
  return card;
}

// Value number i of what a (sequence, position, layer) shows; a pure function, so that any test can ask again.
inline float fed(const char* what, std::int64_t sequence, std::int64_t position, std::int64_t layer, std::int64_t i) {
  return random_normal({.seed = 7,
                        .sequence = sequence,
                        .layer = static_cast<std::int32_t>(layer),
                        .head = static_cast<std::int32_t>(i),
                        .name = what},
                       position);
}

// Attention of one query over keys 0…position: a softmax of fed numbers.
inline std::vector<float> fed_attention(std::int64_t sequence, std::int64_t position, std::int64_t layer,
                                        std::int64_t head) {
  std::vector<float> p(static_cast<std::size_t>(position + 1));
  double sum = 0.0;
  for (std::int64_t j = 0; j <= position; ++j) {
    p[static_cast<std::size_t>(j)] = std::exp(2.0f * fed("p", sequence * 64 + head, position * 4099 + j, layer, 0));
    sum += static_cast<double>(p[static_cast<std::size_t>(j)]);
  }
  for (float& x : p) x = static_cast<float>(static_cast<double>(x) / sum);
  return p;
}

inline std::string token_text(std::int32_t id) {
  return std::string(static_cast<std::size_t>(id % 4), 'a') + static_cast<char>('A' + id % 26);
}

// One number fed wrong on purpose.
struct Injection {
  std::string what;
  std::int64_t sequence = 0, position = 0, layer = 0, i = 0;
  float value = 0.0f;
};

class Driver {
 public:
  Driver(Shape shape, std::vector<TokenSequence> sequences) : shape_(shape), sequences_(std::move(sequences)) {}

  std::vector<Injection> injections;

  traces::Recorder::Plan plan() const {
    traces::Recorder::Plan plan;
    plan.card = card_of(shape_);
    plan.sequences = sequences_;
    plan.provenance["command"] = "driver";
    plan.token_bytes = token_text;
    plan.output_projection = [shape = shape_](std::int64_t layer) {
      Array<float, 2> w({shape.hidden, shape.query_heads * shape.head_dim});
      for (std::int64_t i = 0; i < w.size(); ++i) w.data()[i] = from_bf16(to_bf16(fed("w_o", 0, i, layer, 0)));
      return w;
    };
    return plan;
  }
  const Shape& shape() const { return shape_; }
  const std::vector<TokenSequence>& sequences() const { return sequences_; }

  // The token at a position of a sequence (generated ones included).
  std::int32_t token(std::int64_t sequence, std::int64_t position) const {
    const TokenSequence& one = sequences_[static_cast<std::size_t>(sequence)];
    if (position < one.fork_at) return token(one.parent, position);
    const std::size_t at = static_cast<std::size_t>(position - one.fork_at);
    if (at < one.ids.size()) return one.ids[at];
    return static_cast<std::int32_t>((position * 7 + sequence) % shape_.vocab);
  }
  // Which sequence fed a position.
  std::int64_t source(std::int64_t sequence, std::int64_t position) const {
    const TokenSequence& one = sequences_[static_cast<std::size_t>(sequence)];
    return position < one.fork_at ? source(one.parent, position) : sequence;
  }
  std::vector<float> logits(std::int64_t sequence, std::int64_t position) const {
    std::vector<float> out(static_cast<std::size_t>(shape_.vocab));
    for (std::int64_t j = 0; j < shape_.vocab; ++j)
      out[static_cast<std::size_t>(j)] = 3.0f * fed("logits", sequence, position, 0, j);
    return out;
  }

  // One pass over [first, first + n). with_attention: probabilities too (slow for long sequences).
  void pass(Tap& tap, std::int64_t sequence, std::int64_t first, std::int64_t n, bool decode,
            bool with_attention) const {
    const Shape& s = shape_;
    std::vector<std::int32_t> ids;
    for (std::int64_t i = 0; i < n; ++i) ids.push_back(token(sequence, first + i));
    tap.begin({.sequence = sequence, .first = first, .ids = ids, .decode = decode});
    for (std::int64_t l = 0; l < s.layers; ++l) {
      if (with_attention && tap.wants_probabilities(l)) attention(tap, sequence, first, n, l);
      const Array<float, 3> q = rows("q", sequence, first, n, l, s.query_heads, s.head_dim);
      const Array<float, 3> q_pre = rows("q_pre", sequence, first, n, l, s.query_heads, s.head_dim);
      const Array<float, 3> k = rows("k", sequence, first, n, l, s.kv_heads, s.head_dim);
      const Array<float, 3> v = rows("v", sequence, first, n, l, s.kv_heads, s.head_dim);
      const Array<float, 3> lse = rows("lse", sequence, first, n, l, 1, s.query_heads);
      const Array<float, 3> in = rows("in", sequence, first, n, l, 1, s.hidden);
      const Array<float, 3> attn_in = rows("attn_in", sequence, first, n, l, 1, s.hidden);
      const auto flat = [n](const Array<float, 3>& x) { return View<const float, 2>(x.data(), {n, x.extent(2)}); };
      tap.layer({.layer = l,
                 .q = q,
                 .q_pre = q_pre,
                 .k = k,
                 .v = v,
                 .lse = flat(lse),
                 .input = flat(in),
                 .attn_in = flat(attn_in),
                 .attn_out = flat(in)});
    }
    const Array<float, 3> last = rows("in", sequence, first, n, s.layers, 1, s.hidden);
    Array<float, 2> all_logits({tap.wants_all_logits() ? n : 0, s.vocab});
    std::vector<std::int64_t> logit_rows;
    for (std::int64_t i = 0; i < all_logits.extent(0); ++i) {
      const std::vector<float> row = logits(sequence, first + i);
      std::copy(row.begin(), row.end(), all_logits.data() + i * s.vocab);
      logit_rows.push_back(i);
    }
    tap.end({.final_residual = View<const float, 2>(last.data(), {n, s.hidden}),
             .logits = all_logits,
             .logit_rows = logit_rows});
  }

  // A whole sequence: prefill in pieces of `chunk`, then its decode steps, then its end.
  void feed(traces::Recorder& recorder, std::int64_t sequence, std::int64_t chunk, bool with_attention = true) const {
    const TokenSequence& one = sequences_[static_cast<std::size_t>(sequence)];
    const std::int64_t end = one.fork_at + static_cast<std::int64_t>(one.ids.size());
    for (std::int64_t at = one.fork_at; at < end;) {
      // Pieces end at absolute multiples of the chunk, as the runtime's do.
      const std::int64_t n = std::min(end, (at / chunk + 1) * chunk) - at;
      pass(recorder, sequence, at, n, false, with_attention);
      at += n;
    }
    for (std::int64_t i = 0; i + 1 < one.decode; ++i) pass(recorder, sequence, end + i, 1, true, with_attention);
    recorder.sequence_done(sequence, one.decode > 0 ? token(sequence, end + one.decode - 1) : -1);
  }

  Array<float, 3> rows(const char* what, std::int64_t sequence, std::int64_t first, std::int64_t n, std::int64_t layer,
                       std::int64_t heads, std::int64_t width) const {
    Array<float, 3> out({n, heads, width});
    for (std::int64_t i = 0; i < n; ++i)
      for (std::int64_t j = 0; j < heads * width; ++j)
        out.data()[i * heads * width + j] = fed(what, sequence, first + i, layer, j);
    for (const Injection& wrong : injections)
      if (wrong.what == what && wrong.sequence == sequence && wrong.layer == layer && wrong.position >= first &&
          wrong.position < first + n)
        out.data()[(wrong.position - first) * heads * width + wrong.i] = wrong.value;
    return out;
  }

 private:
  void attention(Tap& tap, std::int64_t sequence, std::int64_t first, std::int64_t n, std::int64_t layer) const {
    for (std::int64_t h = 0; h < shape_.query_heads; ++h) {
      for (std::int64_t at = first; at < first + n;) {
        const std::int64_t stop = std::min(first + n, (at / 64 + 1) * 64), keys = stop;
        Array<float, 2> p({stop - at, keys});
        std::vector<std::int64_t> position;
        for (std::int64_t j = 0; j < keys; ++j) position.push_back(j);
        for (std::int64_t i = at; i < stop; ++i) {
          const std::vector<float> row = fed_attention(sequence, i, layer, h);
          std::copy(row.begin(), row.end(), p.data() + (i - at) * keys);
        }
        tap.probabilities({.layer = layer, .head = h, .first = at, .p = p, .key_position = position});
        at = stop;
      }
    }
  }

  Shape shape_;
  std::vector<TokenSequence> sequences_;
};

inline TokenSequence context_of(std::int64_t tokens, std::int64_t decode = 0) {
  TokenSequence one;
  for (std::int64_t i = 0; i < tokens; ++i) one.ids.push_back(static_cast<std::int32_t>((i * 37 + 5) % 100));
  one.segments = {{Role::context, 0, tokens}};
  if (tokens == 0) one.segments.clear();
  one.decode = decode;
  return one;
}

// What tests that kill or starve the writer record: short sequences, some of them decoding, in small chunks.
inline Driver killed_driver(std::int64_t tokens) {
  std::vector<TokenSequence> sequences;
  for (std::int64_t at = 0, i = 0; at < tokens; at += 75, ++i)
    sequences.push_back(context_of(std::min<std::int64_t>(75, tokens - at), i % 2 * 5));
  return Driver({.layers = 2, .query_heads = 2, .kv_heads = 1, .head_dim = 8, .hidden = 8, .vocab = 70},
                std::move(sequences));
}

// What a stored number comes back as.
inline float stored(DType dtype, float x) {
  return dtype == DType::f32 ? x : dtype == DType::bf16 ? from_bf16(to_bf16(x)) : from_f16(to_f16(x));
}

class TemporaryFolder {
 public:
  // In memory where there is such a place: what a killed process wrote survives there as well, and fsync costs nothing.
  explicit TemporaryFolder(bool in_memory = true) {
    std::error_code ignored;
    const bool memory = in_memory && std::filesystem::is_directory("/dev/shm", ignored);
    const std::filesystem::path root = memory ? "/dev/shm" : std::filesystem::temp_directory_path();
    std::string name = (root / ("kvt-test-" + std::string(6, 'X'))).string();
    path_ = ::mkdtemp(name.data());
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace kvgrind::tests
