#include "kernels/attention/attention_cuda.h"

#include <algorithm>
#include <numeric>

#include "core/array.h"
#include "kernels/attention/attention.h"
#include "tests/kernels/cuda/on_device.h"
#include "tests/support/for_all.h"

namespace kvgrind::tests {
namespace {

using kernels::AttentionShape;

struct Case {
  AttentionShape shape;
  std::int64_t n = 1, first = 0, capacity = 0;
  bool sinks = false;
};

// Inputs of one case; k and v as a plain cache [Hk, capacity, D].
struct Inputs {
  Inputs(const Case& c, std::mt19937_64& rng, kernels::DeviceStream stream)
      : q(with_outliers(rng, c.n * c.shape.query_heads * c.shape.head_dim), c.shape.dtype, stream),
        k(with_outliers(rng, c.shape.cache_heads * c.capacity * c.shape.head_dim), c.shape.dtype, stream),
        v(normal_values(rng, c.shape.cache_heads * c.capacity * c.shape.head_dim), c.shape.dtype, stream),
        sink_values(normal_values(rng, c.shape.query_heads, 2.0f)),
        sinks(sink_values, stream) {}
  static std::vector<float> with_outliers(std::mt19937_64& rng, std::int64_t n) {
    std::vector<float> x = normal_values(rng, n);
    for (std::size_t i = 0; i < x.size(); i += 37) x[i] *= 4.0f;
    return x;
  }
  RemoteFloats q, k, v;
  std::vector<float> sink_values;
  Remote<float> sinks;
};

struct Expected {
  std::vector<float> out, lse, column_sum, p;
};

// The CPU reference, head by head. Column sums [Hq, first + n]; p [Hq, n, first + n] of the first 64 rows at most.
Expected reference(const Case& c, const Inputs& in) {
  const auto [dtype, heads, cache_heads, dims, scale, softcap, window, ignored] = c.shape;
  const std::int64_t slots = c.first + c.n, rows = std::min<std::int64_t>(c.n, 64);
  Expected e;
  e.out.resize(static_cast<std::size_t>(c.n * heads * dims));
  e.lse.resize(static_cast<std::size_t>(c.n * heads));
  e.column_sum.resize(static_cast<std::size_t>(heads * slots));
  e.p.resize(static_cast<std::size_t>(heads * rows * slots));
  std::vector<std::int64_t> q_position(static_cast<std::size_t>(c.n)), k_position(static_cast<std::size_t>(slots));
  std::iota(q_position.begin(), q_position.end(), c.first);
  std::iota(k_position.begin(), k_position.end(), 0);
  for (std::int64_t h = 0; h < heads; ++h) {
    const std::int64_t g = h / (heads / cache_heads);
    std::vector<float> lse(static_cast<std::size_t>(c.n));
    std::vector<double> sums(static_cast<std::size_t>(slots));
    kernels::AttentionParams a;
    a.q = {in.q.exact.data() + h * dims, {c.n, dims}, {heads * dims, 1}};
    a.k = {in.k.exact.data() + g * c.capacity * dims, {slots, dims}};
    a.v = {in.v.exact.data() + g * c.capacity * dims, {slots, dims}};
    a.q_position = q_position, a.k_position = k_position;
    a.scale = scale, a.softcap = softcap, a.window = window;
    a.sink = c.sinks ? &in.sink_values[static_cast<std::size_t>(h)] : nullptr;
    a.out = {e.out.data() + h * dims, {c.n, dims}, {heads * dims, 1}};
    a.lse = lse.data();
    a.probabilities = [&](std::int64_t row0, View<const float, 2> p) {
      for (std::int64_t i = 0; i < p.extent(0); ++i)
        for (std::int64_t j = 0; j < slots; ++j) {
          sums[static_cast<std::size_t>(j)] += static_cast<double>(p(i, j));
          if (row0 + i < rows) e.p[static_cast<std::size_t>((h * rows + row0 + i) * slots + j)] = p(i, j);
        }
    };
    kernels::attention_ref(a);
    for (std::int64_t i = 0; i < c.n; ++i)
      e.lse[static_cast<std::size_t>(i * heads + h)] = lse[static_cast<std::size_t>(i)];
    for (std::int64_t j = 0; j < slots; ++j)
      e.column_sum[static_cast<std::size_t>(h * slots + j)] = static_cast<float>(sums[static_cast<std::size_t>(j)]);
  }
  return e;
}

void expect_attention(const std::vector<float>& out, const std::vector<float>& lse, const Expected& want, DType dtype,
                      const char* what) {
  const bool wide = dtype == DType::f32;
  expect_close(lse, want.lse, wide ? 2e-5f : 2e-4f, wide ? 2e-6f : 2e-5f, what);
  expect_close(out, want.out, wide ? 2e-5f : 2e-2f, wide ? 1e-5f : 1.6e-2f, what);
  const double error = relative_error(out, want.out);
  if (!(error <= (wide ? 3e-6 : 6e-3))) ADD_FAILURE() << what << ": relative error " << error;
}

class AttentionCuda : public OnDevice {
 protected:
  struct Result {
    std::vector<float> out, lse;
  };

  Result prefill(const Case& c, const Inputs& in, std::int64_t row0, std::int64_t n) {
    const std::int64_t width = c.shape.query_heads * c.shape.head_dim;
    RemoteFloats out(poison(n * width), c.shape.dtype, stream());
    Remote<float> lse(poison(n * c.shape.query_heads), stream());
    kernels::AttentionPrefill a;
    a.shape = shape(c, in);
    a.q = static_cast<const char*>(in.q.data()) + row0 * width * size_bytes(c.shape.dtype);
    a.n = n, a.first = c.first + row0;
    a.cache = cache(c, in);
    a.out = out.data(), a.lse = lse.data();
    kernels::attention_prefill_cuda(a, stream());
    return {out.values(), lse.values()};
  }

  std::vector<float> column_sums(const Case& c, const Inputs& in, const std::vector<float>& lse,
                                 const std::vector<std::int64_t>& cuts) {
    const std::int64_t slots = c.first + c.n, heads = c.shape.query_heads;
    Remote<float> lse_device(lse, stream());
    Remote<float> sum(std::vector<float>(static_cast<std::size_t>(heads * slots), 0.0f), stream());
    for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
      kernels::ColumnSums a;
      a.shape = shape(c, in);
      a.q = static_cast<const char*>(in.q.data()) + cuts[i] * heads * c.shape.head_dim * size_bytes(c.shape.dtype);
      a.n = cuts[i + 1] - cuts[i], a.first = c.first + cuts[i];
      a.cache = cache(c, in);
      a.lse = lse_device.data() + cuts[i] * heads;
      a.sum = sum.data(), a.sum_stride = slots;
      kernels::column_sums_cuda(a, stream());
    }
    return sum.values();
  }

  static AttentionShape shape(const Case& c, const Inputs& in) {
    AttentionShape s = c.shape;
    s.sinks = c.sinks ? in.sinks.data() : nullptr;
    return s;
  }
  static kernels::PlainCache cache(const Case& c, const Inputs& in) {
    return {in.k.data(), in.v.data(), c.capacity * c.shape.head_dim};
  }
};

Case random_case(std::mt19937_64& rng, bool small) {
  auto pick = [&](std::initializer_list<std::int64_t> from) {
    return from.begin()[std::uniform_int_distribution<std::size_t>(0, from.size() - 1)(rng)];
  };
  Case c;
  c.shape.dtype = pick({0, 1}) ? DType::bf16 : DType::f32;
  c.shape.head_dim = pick({32, 64, 96, 128, 256, 80, 12});
  c.shape.cache_heads = pick({1, 2});
  c.shape.query_heads = c.shape.cache_heads * pick({1, 3, 4, 7});
  c.shape.scale = 0.6f / std::sqrt(static_cast<float>(c.shape.head_dim));
  c.shape.softcap = pick({0, 0, 1}) ? 5.0f : 0.0f;
  c.shape.window = pick({0, 0, 1, 33, 100});
  c.n = pick({1, 2, 17, 64, 81, 130, small ? 200 : 300});
  c.first = pick({0, 0, 1, 63, 64, 150});
  c.capacity = c.first + c.n + pick({0, 5});
  c.sinks = pick({0, 0, 1});
  return c;
}

TEST_F(AttentionCuda, PrefillEqualsTheReference) {
  for_all(501, cases(60), [&](std::mt19937_64& rng) {
    const Case c = random_case(rng, false);
    SCOPED_TRACE(::testing::Message() << dtype_name(c.shape.dtype) << " D " << c.shape.head_dim << " n " << c.n
                                      << " first " << c.first << " window " << c.shape.window << " cap "
                                      << c.shape.softcap << " sinks " << c.sinks << " heads " << c.shape.query_heads
                                      << "/" << c.shape.cache_heads);
    const Inputs in(c, rng, stream());
    const Result got = prefill(c, in, 0, c.n);
    expect_attention(got.out, got.lse, reference(c, in), c.shape.dtype, "prefill");
  });
}

TEST_F(AttentionCuda, ARowDoesNotDependOnTheOtherRowsOfTheCall) {
  for_all(502, cases(12), [&](std::mt19937_64& rng) {
    Case c = random_case(rng, true);
    c.n = 200;
    c.capacity = c.first + c.n;
    const Inputs in(c, rng, stream());
    const Result whole = prefill(c, in, 0, c.n);
    const std::int64_t heads = c.shape.query_heads, width = heads * c.shape.head_dim;
    for (const auto& [row0, n] : {std::pair<std::int64_t, std::int64_t>{0, 64}, {64, 136}, {128, 1}, {70, 90}}) {
      const Result part = prefill(c, in, row0, n);
      EXPECT_TRUE(std::equal(part.out.begin(), part.out.end(), whole.out.begin() + row0 * width));
      EXPECT_TRUE(std::equal(part.lse.begin(), part.lse.end(), whole.lse.begin() + row0 * heads));
    }
  });
}

TEST_F(AttentionCuda, ColumnSumsEqualTheReferenceAndChunksChangeNothing) {
  for_all(503, cases(40), [&](std::mt19937_64& rng) {
    const Case c = random_case(rng, false);
    SCOPED_TRACE(::testing::Message() << dtype_name(c.shape.dtype) << " D " << c.shape.head_dim << " n " << c.n
                                      << " first " << c.first << " window " << c.shape.window);
    const Inputs in(c, rng, stream());
    const Expected want = reference(c, in);
    const Result forward = prefill(c, in, 0, c.n);
    const std::vector<float> whole = column_sums(c, in, forward.lse, {0, c.n});
    const bool wide = c.shape.dtype == DType::f32;
    expect_close(whole, want.column_sum, wide ? 1e-5f : 5e-5f, wide ? 2e-5f : 2e-4f, "column sum");
    std::vector<std::int64_t> cuts = {0};
    const std::int64_t to_boundary = (64 - c.first % 64) % 64;
    for (std::int64_t cut = to_boundary; cut < c.n; cut += 64)
      if (cut > 0) cuts.push_back(cut);
    cuts.push_back(c.n);
    EXPECT_EQ(column_sums(c, in, forward.lse, cuts), whole);
  });
}

TEST_F(AttentionCuda, ProbabilitiesEqualTheReference) {
  for_all(504, cases(20), [&](std::mt19937_64& rng) {
    const Case c = random_case(rng, true);
    const Inputs in(c, rng, stream());
    const Expected want = reference(c, in);
    const std::int64_t rows = std::min<std::int64_t>(c.n, 64), slots = c.first + c.n, heads = c.shape.query_heads;
    const Result forward = prefill(c, in, 0, c.n);
    Remote<float> lse(forward.lse, stream()), p(poison(heads * rows * slots), stream());
    kernels::AttentionProbabilities a;
    a.shape = shape(c, in);
    a.q = in.q.data(), a.n = rows, a.first = c.first, a.slots = slots, a.cache = cache(c, in);
    a.lse = lse.data(), a.p = p.data();
    kernels::attention_probabilities_cuda(a, stream());
    expect_close(p.values(), want.p, c.shape.dtype == DType::f32 ? 2e-6f : 1e-5f, 2e-4f, "probability");
  });
}

TEST_F(AttentionCuda, DecodeEqualsTheReferenceForAnySplit) {
  for_all(505, cases(60), [&](std::mt19937_64& rng) {
    Case c = random_case(rng, false);
    c.first = std::uniform_int_distribution<std::int64_t>(0, 700)(rng);
    c.n = 1;
    c.capacity = c.first + 3;
    SCOPED_TRACE(::testing::Message() << dtype_name(c.shape.dtype) << " D " << c.shape.head_dim << " position "
                                      << c.first << " window " << c.shape.window << " heads " << c.shape.query_heads
                                      << "/" << c.shape.cache_heads);
    const Inputs in(c, rng, stream());
    const Expected want = reference(c, in);
    const std::int64_t heads = c.shape.query_heads;
    for (const std::int64_t splits : {1, 3, 16}) {
      RemoteFloats out(poison(heads * c.shape.head_dim), c.shape.dtype, stream());
      Remote<float> lse(poison(heads), stream()), trace(poison(3 * heads), stream());
      Remote<std::int64_t> position({c.first}, stream()), trace_row({2}, stream());
      const kernels::DeviceBuffer workspace(kernels::attention_decode_workspace_bytes(c.shape, 1, splits), "a test");
      kernels::fill_bytes(workspace.as(), 0xff, workspace.size_bytes(), stream());
      kernels::AttentionDecode a;
      a.shape = shape(c, in);
      a.q = in.q.data(), a.position = position.data(), a.cache = cache(c, in), a.splits = splits;
      a.workspace = workspace.as(), a.out = out.data(), a.lse = lse.data();
      a.lse_trace = trace.data(), a.trace_row = trace_row.data(), a.trace_stride = heads;
      kernels::attention_decode_cuda(a, stream());
      expect_attention(out.values(), lse.values(), want, c.shape.dtype, "decode");
      const std::vector<float> rows = trace.values(), direct = lse.values();
      EXPECT_TRUE(std::equal(direct.begin(), direct.end(), rows.begin() + 2 * heads));
      EXPECT_TRUE(std::isnan(rows[0]));
    }
  });
}

// Ragged caches: every head its own slots in random order, with count biases; some see nothing at all.
struct Ragged {
  std::vector<std::vector<std::int64_t>> position;
  std::vector<std::vector<float>> log_count;
  std::vector<RemoteFloats> k, v;
  std::vector<Remote<std::int64_t>> position_device;
  std::vector<Remote<float>> log_count_device;
  std::vector<kernels::DeviceGroup> groups;

  Ragged(std::int64_t heads, std::int64_t dims, std::int64_t last, DType dtype, std::mt19937_64& rng,
         kernels::DeviceStream stream) {
    for (std::int64_t h = 0; h < heads; ++h) {
      std::vector<std::int64_t> all(static_cast<std::size_t>(last + 1));
      std::iota(all.begin(), all.end(), 0);
      std::shuffle(all.begin(), all.end(), rng);
      all.resize(std::uniform_int_distribution<std::size_t>(0, all.size())(rng));
      const auto n = static_cast<std::int64_t>(all.size());
      std::vector<float> counts(all.size());
      for (float& x : counts) x = std::uniform_int_distribution<int>(0, 3)(rng) == 0 ? std::log(3.0f) : 0.0f;
      position.push_back(all), log_count.push_back(counts);
      k.emplace_back(normal_values(rng, n * dims), dtype, stream);
      v.emplace_back(normal_values(rng, n * dims), dtype, stream);
      position_device.emplace_back(all, stream), log_count_device.emplace_back(counts, stream);
      groups.push_back(
          {k.back().data(), v.back().data(), position_device.back().data(), log_count_device.back().data(), n});
    }
  }
};

Expected ragged_reference(const AttentionShape& shape, std::int64_t n, std::int64_t first, const std::vector<float>& q,
                          const Ragged& ragged, std::int64_t head_of_sequence = 0) {
  const std::int64_t heads = shape.query_heads, dims = shape.head_dim;
  Expected e;
  e.out.resize(static_cast<std::size_t>(n * heads * dims));
  e.lse.resize(static_cast<std::size_t>(n * heads));
  std::vector<std::int64_t> q_position(static_cast<std::size_t>(n));
  std::iota(q_position.begin(), q_position.end(), first);
  for (std::int64_t h = 0; h < heads; ++h) {
    const auto g = static_cast<std::size_t>(head_of_sequence + h / (heads / shape.cache_heads));
    std::vector<float> lse(static_cast<std::size_t>(n));
    kernels::AttentionParams a;
    const auto slots = static_cast<std::int64_t>(ragged.position[g].size());
    a.q = {q.data() + h * dims, {n, dims}, {heads * dims, 1}};
    a.k = {ragged.k[g].exact.data(), {slots, dims}};
    a.v = {ragged.v[g].exact.data(), {slots, dims}};
    a.q_position = q_position, a.k_position = ragged.position[g], a.log_count = ragged.log_count[g].data();
    a.scale = shape.scale, a.softcap = shape.softcap, a.window = shape.window;
    a.out = {e.out.data() + h * dims, {n, dims}, {heads * dims, 1}};
    a.lse = lse.data();
    kernels::attention_ref(a);
    for (std::int64_t i = 0; i < n; ++i)
      e.lse[static_cast<std::size_t>(i * heads + h)] = lse[static_cast<std::size_t>(i)];
  }
  return e;
}

TEST_F(AttentionCuda, RaggedCachesEqualTheReference) {
  for_all(506, cases(30), [&](std::mt19937_64& rng) {
    Case c = random_case(rng, true);
    const std::int64_t dims = c.shape.head_dim, heads = c.shape.query_heads;
    Ragged ragged(c.shape.cache_heads, dims, c.first + c.n - 1, c.shape.dtype, rng, stream());
    const std::vector<float> q = normal_values(rng, c.n * heads * dims, 2.0f);
    Remote<float> q_device(q, stream()), out(poison(c.n * heads * dims), stream()), lse(poison(c.n * heads), stream());
    Remote<kernels::DeviceGroup> groups(ragged.groups, stream());
    kernels::AttentionRagged a;
    a.shape = c.shape, a.q = q_device.data(), a.n = c.n, a.first = c.first, a.groups = groups.data();
    a.out = out.data(), a.lse = lse.data();
    kernels::attention_ragged_cuda(a, stream());
    expect_attention(out.values(), lse.values(), ragged_reference(c.shape, c.n, c.first, q, ragged), DType::f32,
                     "ragged");
  });
}

TEST_F(AttentionCuda, DecodeOverRaggedCachesOfSeveralSequences) {
  for_all(507, cases(30), [&](std::mt19937_64& rng) {
    Case c = random_case(rng, true);
    const std::int64_t dims = c.shape.head_dim, heads = c.shape.query_heads, sequences = 3, splits = 4;
    const std::int64_t last = 400;
    Ragged ragged(sequences * c.shape.cache_heads, dims, last, c.shape.dtype, rng, stream());
    const RemoteFloats q(normal_values(rng, sequences * heads * dims, 2.0f), c.shape.dtype, stream());
    RemoteFloats out(poison(sequences * heads * dims), c.shape.dtype, stream());
    Remote<float> lse(poison(sequences * heads), stream());
    const std::vector<std::int64_t> at = {last, 17, 200};
    Remote<std::int64_t> position(at, stream());
    Remote<kernels::DeviceGroup> groups(ragged.groups, stream());
    const kernels::DeviceBuffer workspace(kernels::attention_decode_workspace_bytes(c.shape, sequences, splits),
                                          "a test");
    kernels::fill_bytes(workspace.as(), 0xff, workspace.size_bytes(), stream());
    kernels::AttentionDecode a;
    a.shape = c.shape, a.sequences = sequences, a.q = q.data(), a.position = position.data(), a.groups = groups.data();
    a.splits = splits, a.workspace = workspace.as(), a.out = out.data(), a.lse = lse.data();
    kernels::attention_decode_cuda(a, stream());
    const std::vector<float> got_out = out.values(), got_lse = lse.values();
    for (std::int64_t s = 0; s < sequences; ++s) {
      SCOPED_TRACE(s);
      const auto row = [&](const std::vector<float>& x, std::int64_t width) {
        return std::vector<float>(x.begin() + s * width, x.begin() + (s + 1) * width);
      };
      const Expected want = ragged_reference(c.shape, 1, at[static_cast<std::size_t>(s)], row(q.exact, heads * dims),
                                             ragged, s * c.shape.cache_heads);
      expect_attention(row(got_out, heads * dims), row(got_lse, heads), want, c.shape.dtype,
                       "decode over ragged caches");
    }
  });
}

}  // namespace
}  // namespace kvgrind::tests
