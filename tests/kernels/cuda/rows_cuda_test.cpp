// RoPE, norms, activation, gathering, conversion, products and logit summaries against the CPU references.
#include <algorithm>
#include <numeric>

#include "core/array.h"
#include "core/error.h"
#include "kernels/activation/activation.h"
#include "kernels/activation/activation_cuda.h"
#include "kernels/convert/convert_cuda.h"
#include "kernels/embedding/embedding_cuda.h"
#include "kernels/linear/linear.h"
#include "kernels/linear/linear_cuda.h"
#include "kernels/logits/logits_cuda.h"
#include "kernels/norm/norm.h"
#include "kernels/norm/norm_cuda.h"
#include "kernels/rope/rope.h"
#include "kernels/rope/rope_cuda.h"
#include "tests/kernels/cuda/on_device.h"
#include "tests/support/for_all.h"

namespace kvgrind::tests {
namespace {

class RowsCuda : public OnDevice {};

std::int64_t pick(std::mt19937_64& rng, std::initializer_list<std::int64_t> from) {
  return from.begin()[std::uniform_int_distribution<std::size_t>(0, from.size() - 1)(rng)];
}

// bf16 results may differ from a rounded fp32 reference by one unit in the last place.
float relative_tolerance(DType dtype) { return dtype == DType::f32 ? 2e-6f : 1e-2f; }

TEST_F(RowsCuda, RopeWriteEqualsNormAndRopeOfTheCpu) {
  for_all(601, cases(40), [&](std::mt19937_64& rng) {
    const DType dtype = pick(rng, {0, 1}) ? DType::bf16 : DType::f32;
    const std::int64_t n = pick(rng, {1, 2, 17, 81}), dims = pick(rng, {32, 64, 80, 128, 256}),
                       kv_heads = pick(rng, {1, 2});
    const std::int64_t heads = kv_heads * pick(rng, {1, 3}), half = pick(rng, {0, 1}) ? dims / 2 : dims / 4;
    const std::int64_t first = pick(rng, {0, 5, 3000}), capacity = first + n + 2, all = heads + 2 * kv_heads;
    const bool biased = pick(rng, {0, 1}), normed = pick(rng, {0, 1}), by_pointer = pick(rng, {0, 1});
    RopeSet set{.type = "default", .inv_freq = {}, .attention_factor = 1.25f};
    for (std::int64_t m = 0; m < half; ++m)
      set.inv_freq.push_back(std::pow(10000.0f, -static_cast<float>(m) / static_cast<float>(half)));
    const RemoteFloats qkv(normal_values(rng, n * all * dims), dtype, stream());
    const std::vector<float> bias = normal_values(rng, all * dims), q_norm = normal_values(rng, dims),
                             k_norm = normal_values(rng, dims);

    // The CPU's way.
    Array<float, 3> x({n, all, dims});
    for (std::int64_t i = 0; i < x.size(); ++i)
      x.data()[i] =
          qkv.exact[static_cast<std::size_t>(i)] + (biased ? bias[static_cast<std::size_t>(i % (all * dims))] : 0.0f);
    if (normed)
      for (std::int64_t t = 0; t < n; ++t)
        for (std::int64_t h = 0; h < heads + kv_heads; ++h) {
          const View<float, 2> row(&x(t, h, 0), {1, dims});
          kernels::rms_norm_ref(row, h < heads ? q_norm : k_norm, 1e-6f, row);
        }
    const Array<float, 3> pre = x;
    std::vector<std::int64_t> position(static_cast<std::size_t>(n));
    std::iota(position.begin(), position.end(), first);
    kernels::rope_apply_ref(set, position, {x.data(), {n, heads + kv_heads, dims}, {all * dims, dims, 1}});

    const Remote<float> bias_device(bias, stream()), q_norm_device(q_norm, stream()), k_norm_device(k_norm, stream());
    const Remote<float> inv_freq(set.inv_freq, stream()), table(poison(n * half * 2), stream());
    const Remote<std::int64_t> first_device({first}, stream());
    RemoteFloats q(poison(n * heads * dims), dtype, stream()), q_pre(poison(n * heads * dims), dtype, stream());
    RemoteFloats k(poison(kv_heads * capacity * dims), dtype, stream()),
        v(poison(kv_heads * capacity * dims), dtype, stream());
    RemoteFloats trace(poison(3 * heads * dims), dtype, stream());
    std::vector<std::int64_t> rows(static_cast<std::size_t>(n), -1);
    rows.back() = 1;
    const Remote<std::int64_t> trace_row(rows, stream());
    kernels::rope_table_cuda({.inv_freq = inv_freq.data(),
                              .half = half,
                              .n = n,
                              .first = by_pointer ? -7 : first,
                              .first_device = by_pointer ? first_device.data() : nullptr,
                              .factor = set.attention_factor,
                              .table = table.data()},
                             stream());
    kernels::RopeWrite w;
    w.dtype = dtype, w.qkv = qkv.data(), w.bias = biased ? bias_device.data() : nullptr;
    w.q_norm = normed ? q_norm_device.data() : nullptr, w.k_norm = normed ? k_norm_device.data() : nullptr,
    w.eps = 1e-6f;
    w.n = n, w.query_heads = heads, w.kv_heads = kv_heads, w.head_dim = dims, w.table = table.data(), w.half = half;
    w.q = q.data(), w.q_pre = q_pre.data(), w.k = k.data(), w.v = v.data();
    w.row_stride = dims, w.head_stride = capacity * dims, w.first = by_pointer ? -7 : first;
    w.first_device = by_pointer ? first_device.data() : nullptr;
    w.q_trace = trace.data(), w.trace_row = trace_row.data(), w.trace_stride = heads * dims;
    kernels::rope_write_cuda(w, stream());

    std::vector<float> want_q, want_pre, want_k(static_cast<std::size_t>(kv_heads * capacity * dims), NAN),
        want_v = want_k;
    for (std::int64_t t = 0; t < n; ++t) {
      want_q.insert(want_q.end(), &x(t, 0, 0), &x(t, 0, 0) + heads * dims);
      want_pre.insert(want_pre.end(), &pre(t, 0, 0), &pre(t, 0, 0) + heads * dims);
      for (std::int64_t h = 0; h < kv_heads; ++h)
        for (std::int64_t d = 0; d < dims; ++d) {
          const auto at = static_cast<std::size_t>((h * capacity + first + t) * dims + d);
          want_k[at] = x(t, heads + h, d), want_v[at] = x(t, heads + kv_heads + h, d);
        }
    }
    const float relative = relative_tolerance(dtype), absolute = dtype == DType::f32 ? 4e-6f : 2e-3f;
    expect_close(q.values(), want_q, absolute, relative, "q");
    expect_close(q_pre.values(), want_pre, absolute, relative, "q_pre");
    const std::vector<float> got_k = k.values(), got_v = v.values(), got_q = q.values(), got_trace = trace.values();
    for (std::size_t i = 0; i < want_k.size(); ++i) {
      ASSERT_EQ(std::isnan(got_k[i]), std::isnan(want_k[i]))
          << "a slot that is not of this call was touched, or one was not";
      if (std::isnan(want_k[i])) continue;
      ASSERT_NEAR(got_k[i], want_k[i], absolute + relative * std::abs(want_k[i]));
      ASSERT_NEAR(got_v[i], want_v[i], absolute + relative * std::abs(want_v[i]));
    }
    EXPECT_TRUE(std::equal(got_q.end() - heads * dims, got_q.end(), got_trace.begin() + heads * dims));
    EXPECT_TRUE(std::isnan(got_trace.front()) && std::isnan(got_trace.back()));
  });
}

TEST_F(RowsCuda, NormsEqualTheReference) {
  for_all(602, cases(20), [&](std::mt19937_64& rng) {
    const DType dtype = pick(rng, {0, 1}) ? DType::bf16 : DType::f32;
    const std::int64_t n = pick(rng, {1, 3, 17}), width = pick(rng, {1, 31, 192, 987, 4096});
    const std::vector<float> x = normal_values(rng, n * width, 3.0f), w = normal_values(rng, width);
    std::vector<float> want(x.size()), want_x(static_cast<std::size_t>(n)), want_out(static_cast<std::size_t>(n));
    kernels::rms_norm_ref({x.data(), {n, width}}, w, 1e-5f, {want.data(), {n, width}});
    kernels::l2_norms_ref({x.data(), {n, width}}, want_x);
    kernels::l2_norms_ref({want.data(), {n, width}}, want_out);
    const Remote<float> x_device(x, stream()), w_device(w, stream()), x_norm(poison(n), stream()),
        out_norm(poison(n), stream());
    const RemoteFloats out(poison(n * width), dtype, stream());
    kernels::rms_norm_cuda({.x = x_device.data(),
                            .w = w_device.data(),
                            .eps = 1e-5f,
                            .n = n,
                            .width = width,
                            .dtype = dtype,
                            .out = out.data(),
                            .x_norm = x_norm.data(),
                            .out_norm = out_norm.data()},
                           stream());
    expect_close(out.values(), want, 1e-6f, relative_tolerance(dtype), "norm");
    expect_close(x_norm.values(), want_x, 0.0f, 2e-6f, "norm of x");
    expect_close(out_norm.values(), want_out, 0.0f, dtype == DType::f32 ? 4e-6f : 4e-3f, "norm of the result");
  });
}

TEST_F(RowsCuda, ActivationAndBiasEqualTheReference) {
  for_all(603, cases(20), [&](std::mt19937_64& rng) {
    const DType dtype = pick(rng, {0, 1}) ? DType::bf16 : DType::f32;
    const std::int64_t n = pick(rng, {1, 5, 17}), width = pick(rng, {1, 33, 512});
    const bool biased = pick(rng, {0, 1});
    const RemoteFloats gate_up(normal_values(rng, n * 2 * width, 3.0f), dtype, stream()),
        out(poison(n * width), dtype, stream());
    const std::vector<float> bias = normal_values(rng, 2 * width);
    const Remote<float> bias_device(bias, stream());
    std::vector<float> x = gate_up.exact, want(static_cast<std::size_t>(n * width));
    if (biased)
      for (std::size_t i = 0; i < x.size(); ++i) x[i] += bias[i % bias.size()];
    kernels::silu_mul_ref({x.data(), {n, width}, {2 * width, 1}}, {x.data() + width, {n, width}, {2 * width, 1}},
                          {want.data(), {n, width}});
    kernels::silu_mul_cuda(dtype, gate_up.data(), biased ? bias_device.data() : nullptr, n, width, out.data(),
                           stream());
    expect_close(out.values(), want, 1e-6f, relative_tolerance(dtype), "silu(gate)·up");
  });
}

TEST_F(RowsCuda, GatherConvertAndAddAreExact) {
  std::mt19937_64 rng(604);
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const RemoteFloats table(normal_values(rng, 50 * 33), dtype, stream());
    const std::vector<std::int32_t> index = {49, 0, 7, 7, 31};
    const Remote<std::int32_t> index_device(index, stream());
    const Remote<float> rows(poison(5 * 33), stream()), wide(poison(50 * 33), stream());
    kernels::gather_rows_cuda(dtype, table.data(), index_device.data(), 5, 33, rows.data(), stream());
    const std::vector<float> got = rows.values();
    for (std::size_t i = 0; i < index.size(); ++i)
      EXPECT_TRUE(std::equal(got.begin() + static_cast<std::ptrdiff_t>(i) * 33,
                             got.begin() + static_cast<std::ptrdiff_t>(i + 1) * 33,
                             table.exact.begin() + index[i] * 33));
    kernels::to_f32_cuda(dtype, table.data(), 50 * 33, wide.data(), stream());
    EXPECT_EQ(wide.values(), table.exact);
    const RemoteFloats back(poison(50 * 33), dtype, stream());
    kernels::from_f32_cuda(dtype, wide.data(), 50 * 33, back.data(), stream());
    EXPECT_EQ(back.values(), table.exact);
    kernels::add_cuda(wide.data(), wide.data(), 50 * 33, stream());
    const std::vector<float> twice = wide.values();
    for (std::size_t i = 0; i < twice.size(); ++i) ASSERT_EQ(twice[i], 2.0f * table.exact[i]);
  }
  // from_f32 rounds to nearest even, as the CPU does.
  const std::vector<float> values = normal_values(rng, 5000);
  const Remote<float> in(values, stream());
  const RemoteFloats out(poison(5000), DType::bf16, stream());
  kernels::from_f32_cuda(DType::bf16, in.data(), 5000, out.data(), stream());
  const std::vector<float> got = out.values();
  for (std::size_t i = 0; i < got.size(); ++i) ASSERT_EQ(got[i], from_bf16(to_bf16(values[i])));
}

TEST_F(RowsCuda, RandomFillIsNormalAndRepeatable) {
  const std::int64_t n = 1 << 16;
  const Remote<float> a(poison(n), stream()), b(poison(n), stream());
  kernels::fill_normal_cuda(DType::f32, a.data(), n, 2.0f, 9, stream());
  kernels::fill_normal_cuda(DType::f32, b.data(), n, 2.0f, 9, stream());
  const std::vector<float> x = a.values();
  EXPECT_EQ(x, b.values());
  double sum = 0.0, squares = 0.0;
  for (const float v : x) sum += static_cast<double>(v), squares += static_cast<double>(v) * static_cast<double>(v);
  EXPECT_NEAR(sum / n, 0.0, 0.05);
  EXPECT_NEAR(squares / n, 4.0, 0.15);
}

TEST_F(RowsCuda, ProductsEqualTheReference) {
  for_all(605, cases(12), [&](std::mt19937_64& rng) {
    const DType dtype = pick(rng, {0, 1}) ? DType::bf16 : DType::f32;
    const std::int64_t m = pick(rng, {1, 1, 2, 17, 81}), n = pick(rng, {8, 96, 200, 333}),
                       k = pick(rng, {8, 64, 400, 2048, 4104, 14336});
    const RemoteFloats x(normal_values(rng, m * k), dtype, stream()), w(normal_values(rng, n * k), dtype, stream());
    const Tensor weight{
        .dtype = DType::f32, .shape = {n, k}, .data = reinterpret_cast<const std::byte*>(w.exact.data())};
    std::vector<float> want(static_cast<std::size_t>(m * n));
    kernels::linear_ref({{.weight = &weight, .bias = nullptr}}, {x.exact.data(), {m, k}}, {want.data(), {m, n}});
    const Remote<float> y(poison(m * n), stream());
    const kernels::DenseProducts products(stream());
    products.multiply(dtype, x.data(), w.data(), m, n, k, DType::f32, y.data());
    const float scale = std::sqrt(static_cast<float>(k));
    expect_close(y.values(), want, 8e-6f * scale, 2e-6f, "x·Wᵀ");
    products.multiply(dtype, x.data(), w.data(), m, n, k, DType::f32, y.data(), true);
    for (float& v : want) v *= 2.0f;
    expect_close(y.values(), want, 16e-6f * scale, 2e-6f, "y + x·Wᵀ");
    if (dtype == DType::f32) return;
    for (float& v : want) v *= 0.5f;
    const RemoteFloats narrow(poison(m * n), DType::bf16, stream());
    products.multiply(dtype, x.data(), w.data(), m, n, k, DType::bf16, narrow.data());
    expect_close(narrow.values(), want, 2e-3f * scale, 8e-3f, "x·Wᵀ in bf16");
  });
}

TEST_F(RowsCuda, LogitSummariesEqualASort) {
  for_all(606, cases(12), [&](std::mt19937_64& rng) {
    const std::int64_t rows = 3, vocab = pick(rng, {64, 65, 1000, 4096, 32003});
    std::vector<float> logits = normal_values(rng, rows * vocab, 3.0f);
    if (pick(rng, {0, 1}))  // many ties
      for (float& x : logits) x = std::round(x);
    const std::vector<std::int32_t> target = {0, static_cast<std::int32_t>(vocab - 1), -1};
    const Remote<float> device(logits, stream()), nll(poison(rows), stream()), logp(poison(rows * 64), stream());
    const Remote<std::int32_t> targets(target, stream()),
        ids(std::vector<std::int32_t>(static_cast<std::size_t>(rows * 64), -1), stream());
    kernels::summarise_logits_cuda({.logits = device.data(),
                                    .rows = rows,
                                    .vocab = vocab,
                                    .target = targets.data(),
                                    .nll = nll.data(),
                                    .top_id = ids.data(),
                                    .top_logp = logp.data()},
                                   stream());
    const std::vector<float> got_nll = nll.values(), got_logp = logp.values();
    const std::vector<std::int32_t> got_ids = ids.values();
    for (std::int64_t r = 0; r < rows; ++r) {
      const float* x = logits.data() + r * vocab;
      std::vector<std::int32_t> order(static_cast<std::size_t>(vocab));
      std::iota(order.begin(), order.end(), 0);
      std::sort(order.begin(), order.end(),
                [&](std::int32_t i, std::int32_t j) { return x[i] != x[j] ? x[i] > x[j] : i < j; });
      double sum = 0.0;
      for (std::int64_t i = 0; i < vocab; ++i)
        sum += std::exp(static_cast<double>(x[i]) - static_cast<double>(x[order[0]]));
      const double lse = static_cast<double>(x[order[0]]) + std::log(sum);
      for (std::int64_t j = 0; j < 64; ++j) {
        ASSERT_EQ(got_ids[static_cast<std::size_t>(r * 64 + j)], order[static_cast<std::size_t>(j)])
            << "row " << r << " rank " << j;
        ASSERT_NEAR(got_logp[static_cast<std::size_t>(r * 64 + j)],
                    static_cast<double>(x[order[static_cast<std::size_t>(j)]]) - lse, 2e-5);
      }
      const std::int32_t t = target[static_cast<std::size_t>(r)];
      if (t < 0)
        EXPECT_TRUE(std::isnan(got_nll[static_cast<std::size_t>(r)]));
      else
        EXPECT_NEAR(got_nll[static_cast<std::size_t>(r)], lse - static_cast<double>(x[t]), 2e-5);
    }
  });
}

TEST_F(RowsCuda, TooMuchMemoryIsAnErrorThatSaysHowMuch) {
  try {
    const kernels::DeviceBuffer buffer(1ll << 50, "a very long cache");
    FAIL() << "a petabyte was allocated";
  } catch (const Error& error) {
    EXPECT_EQ(error.category(), Category::unavailable);
    EXPECT_NE(std::string(error.what()).find("a very long cache"), std::string::npos);
  }
  // The device goes on working.
  const Remote<float> x({1.0f, 2.0f}, stream());
  EXPECT_EQ(x.values(), (std::vector<float>{1.0f, 2.0f}));
}

TEST_F(RowsCuda, AskingForADeviceThatIsNotThere) {
  EXPECT_THROW(kernels::use_device(999), Error);
  EXPECT_THROW(kernels::device_info(-1), Error);
  EXPECT_GE(kernels::device_info(0).major, 8);
}

}  // namespace
}  // namespace kvgrind::tests
