// The CUDA runtime against the CPU runtime and against transformers' logits. Skips without a device.
#include <gtest/gtest.h>

#include <algorithm>

#include "core/error.h"
#include "sim/model/cuda_runtime.h"
#include "tests/kernels/cuda/on_device.h"
#include "tests/sim/model_support.h"
#include "tests/support/for_all.h"
#include "tests/support/h5.h"

namespace kvgrind::tests {
namespace {

class ModelCuda : public testing::Test {
 protected:
  void SetUp() override {
    if (kernels::device_count() == 0) GTEST_SKIP() << "no CUDA device";
  }
};

using Built = std::shared_ptr<const sim::CudaModel>;

Built on_device(const RandomModel& random, DType arithmetic = DType::f32) {
  return sim::build_cuda_model(random.config, random.weights, {.arithmetic = arithmetic});
}

Array<float, 2> whole_pass_cuda(const Built& model, std::span<const std::int32_t> ids, Tap* tap = nullptr,
                                const sim::RunOptions& options = {}) {
  const auto cache = sim::cuda_cache(model, static_cast<std::int64_t>(ids.size()));
  const sim::Feed feed{
      .ids = ids, .cache = cache.get(), .tap = tap, .logits_of = all_rows(static_cast<std::int64_t>(ids.size()))};
  return std::move(sim::forward(*model, {&feed, 1}, options)[0]);
}

std::span<const float> row_of(const Array<float, 2>& a, std::int64_t row) {
  return flat(a).subspan(static_cast<std::size_t>(row * a.extent(1)), static_cast<std::size_t>(a.extent(1)));
}

// A model with a random choice of everything that a family may switch on.
RandomModel random_model(std::mt19937_64& rng) {
  const auto coin = [&rng] { return std::uniform_int_distribution<int>(0, 1)(rng) == 1; };
  const std::int64_t kv_heads = 1 + coin();
  RandomModel random(3, kv_heads * (coin() ? 3 : 1), kv_heads);
  ModelCard& card = random.config.card;
  card.head_dim = coin() ? 12 : 32;
  card.scale = 1.0f / std::sqrt(static_cast<float>(card.head_dim));
  random.config.qkv_bias = coin(), random.config.o_bias = coin(), random.config.mlp_bias = coin();
  random.config.qk_norm = coin(), random.config.tied_embeddings = coin();
  if (coin()) card.softcap = 4.0f;
  if (coin()) card.layer[1].window = 37;
  if (coin())
    for (std::int64_t i = 0; i < card.layers * card.query_heads; ++i)
      card.sinks.push_back(0.3f * static_cast<float>(i % 5) - 0.5f);
  random.config.rope = {RopeParameters{.theta = 500.0}, RopeParameters{.theta = 100.0, .partial_rotary_factor = 0.5}};
  card.rope = resolve_rope(random.config, card.max_positions);
  card.layer[2].rope_set = 1;
  return random.fill();
}

// Equal infinities (the LSE of a row that sees nothing) are equal; NaN is never near.
void expect_near(std::span<const float> got, std::span<const float> want, double tolerance, const std::string& what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  double largest = 0.0, size = 0.0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    if (got[i] == want[i]) continue;
    const double d = std::abs(static_cast<double>(got[i]) - static_cast<double>(want[i]));
    if (!(d <= largest)) largest = d, size = static_cast<double>(want[i]);
  }
  EXPECT_TRUE(largest <= tolerance) << what << ": " << largest << " off at a value of " << size;
}

void expect_same_taps(const KeepingTap& got, const KeepingTap& want, std::int64_t layers, double tolerance) {
  EXPECT_EQ(got.passes, want.passes);
  EXPECT_EQ(got.logit_rows, want.logit_rows);
  expect_near(got.logits, want.logits, tolerance, "logits");
  expect_near(got.final_residual, want.final_residual, tolerance, "final residual");
  for (std::int64_t l = 0; l < layers; ++l) {
    const KeepingTap::Layer &a = got.at(l), &b = want.at(l);
    SCOPED_TRACE("layer " + std::to_string(l));
    expect_near(a.q, b.q, tolerance, "q");
    expect_near(a.q_pre, b.q_pre, tolerance, "q_pre");
    expect_near(a.k, b.k, tolerance, "k");
    expect_near(a.v, b.v, tolerance, "v");
    expect_near(a.lse, b.lse, tolerance, "lse");
    expect_near(a.input, b.input, tolerance, "input");
    expect_near(a.attn_in, b.attn_in, tolerance, "attn_in");
    expect_near(a.attn_out, b.attn_out, tolerance, "attn_out");
    EXPECT_EQ(a.blocks, b.blocks);
    ASSERT_EQ(a.column_sum.size(), b.column_sum.size());
    for (std::size_t h = 0; h < a.column_sum.size(); ++h) {
      expect_near(a.column_sum[h], b.column_sum[h], tolerance, "column sums");
      expect_near(a.last[h], b.last[h], tolerance, "last row of probabilities");
    }
  }
}

TEST_F(ModelCuda, FamiliesAsTransformers) {
  const std::filesystem::path folder = source_dir() / "tests/golden/families";
  const H5File file(folder / "families.h5");
  for (const std::string& name : file.members()) {
    SCOPED_TRACE(name);
    const auto ids = file.read<std::int32_t>(name + "/ids");
    const auto expected = file.read<float>(name + "/logits");
    const Built model =
        sim::build_cuda_model(traces::read_model_config(folder / name), traces::read_weights(folder / name, false));
    const sim::RunOptions options{.announced_length = static_cast<std::int64_t>(ids.values.size())};
    expect_near(flat(whole_pass_cuda(model, ids.values, nullptr, options)), expected.values, 2e-4, "logits");
  }
}

TEST_F(ModelCuda, EverythingATapSeesEqualsTheCpuRuntime) {
  for_all(71, cases(8), [](std::mt19937_64& rng) {
    const RandomModel random = random_model(rng);
    const ModelCard& card = random.config.card;
    const auto ids = random_ids(150, card.vocab, rng());
    KeepingTap want(card.layers, true, true), got(card.layers, true, true);
    const auto expected = whole_pass(*random.build(), ids, &want);
    expect_near(flat(whole_pass_cuda(on_device(random), ids, &got)), flat(expected), 1e-3, "logits");
    expect_same_taps(got, want, card.layers, 1e-3);
  });
}

TEST_F(ModelCuda, ChunksAndDecodeStepsEqualOneWholePass) {
  for_all(72, cases(6), [](std::mt19937_64& rng) {
    const RandomModel random = random_model(rng);
    const ModelCard& card = random.config.card;
    const Built model = on_device(random);
    const std::int64_t prompt = 131, steps = 70;
    const auto ids = random_ids(prompt + steps, card.vocab, rng());
    const Array<float, 2> whole = whole_pass(*random.build(), ids);
    const auto cache = sim::cuda_cache(model, 140);  // grows on the way
    const sim::Feed feed{.ids = std::span(ids).first(prompt), .cache = cache.get(), .logits_of = {0, 64, 130}};
    const Array<float, 2> logits = sim::prefill(*model, feed, 64);
    for (std::int64_t i = 0; i < 3; ++i)
      expect_near(row_of(logits, i), row_of(whole, feed.logits_of[static_cast<std::size_t>(i)]), 1e-3,
                  "chunked prefill");
    for (std::int64_t step = 0; step < steps; ++step) {
      const sim::Feed one{.first = prompt + step,
                          .ids = std::span(ids).subspan(static_cast<std::size_t>(prompt + step), 1),
                          .cache = cache.get(),
                          .decode = true,
                          .logits_of = step % 3 == 1 ? std::vector<std::int64_t>{} : std::vector<std::int64_t>{0}};
      const Array<float, 2> got = std::move(sim::forward(*model, {&one, 1})[0]);
      if (!one.logits_of.empty()) expect_near(flat(got), row_of(whole, prompt + step), 1e-3, "decode step");
    }
    // What the cache holds is what the CPU's holds.
    const auto host = sim::full_cache(card);
    const sim::Feed all{.ids = ids, .cache = host.get()};
    sim::forward(*random.build(), {&all, 1});
    for (std::int64_t l = 0; l < card.layers; ++l)
      for (std::int64_t h = 0; h < card.kv_heads; ++h) {
        const sim::GroupView a = cache->read(l, h), b = host->read(l, h);
        const auto n = static_cast<std::size_t>(b.k.size());
        ASSERT_EQ(a.k.size(), b.k.size());
        expect_near({a.k.data(), n}, {b.k.data(), n}, 1e-3, "k of the cache");
        expect_near({a.v.data(), n}, {b.v.data(), n}, 1e-3, "v of the cache");
      }
  });
}

TEST_F(ModelCuda, ForksShareNothing) {
  std::mt19937_64 rng(73);
  const RandomModel random = random_model(rng);
  const Built model = on_device(random);
  const auto ids = random_ids(100, random.config.card.vocab), other = random_ids(40, random.config.card.vocab, 9);
  const auto cache = sim::cuda_cache(model, 100);
  const sim::Feed whole{.ids = ids, .cache = cache.get(), .logits_of = {99}};
  sim::forward(*model, {&whole, 1});
  const auto fork = sim::fork_cuda_cache(*cache, 60, 100);
  const sim::Feed branch{.first = 60, .ids = other, .cache = fork.get(), .logits_of = {39}};
  const Array<float, 2> got = std::move(sim::forward(*model, {&branch, 1})[0]);
  std::vector<std::int32_t> joined(ids.begin(), ids.begin() + 60);
  joined.insert(joined.end(), other.begin(), other.end());
  expect_near(flat(got), row_of(whole_pass(*random.build(), joined), 99), 1e-3, "a fork's logits");
  const std::vector<std::int32_t> more = {5};
  const sim::Feed on{.first = 100, .ids = more, .cache = cache.get(), .decode = true, .logits_of = {0}};
  joined = ids, joined.push_back(5);
  expect_near(flat(sim::forward(*model, {&on, 1})[0]), row_of(whole_pass(*random.build(), joined), 100), 1e-3,
              "the parent goes on as if nothing had forked");
}

TEST_F(ModelCuda, FeedsOfOneCallDoNotMix) {
  std::mt19937_64 rng(74);
  const RandomModel random = random_model(rng);
  const Built model = on_device(random);
  const auto cpu = random.build();
  const auto a = random_ids(90, random.config.card.vocab, 1), b = random_ids(33, random.config.card.vocab, 2),
             c = random_ids(1, random.config.card.vocab, 3);
  const auto cache_a = sim::cuda_cache(model, 90), cache_b = sim::full_cache(random.config.card),
             cache_c = sim::cuda_cache(model, 1);
  const std::vector<sim::Feed> feeds = {{.sequence = 0, .ids = a, .cache = cache_a.get(), .logits_of = {89, 0, 89}},
                                        {.sequence = 1, .ids = b, .cache = cache_b.get(), .logits_of = {32}},
                                        {.sequence = 2, .ids = c, .cache = cache_c.get(), .logits_of = {0}}};
  const auto logits = sim::forward(*model, feeds);
  const auto whole_a = whole_pass(*cpu, a);
  expect_near(row_of(logits[0], 0), row_of(whole_a, 89), 1e-3, "first feed");
  expect_near(row_of(logits[0], 1), row_of(whole_a, 0), 1e-3, "first feed");
  expect_near(row_of(logits[0], 2), row_of(whole_a, 89), 1e-3, "first feed, a row wanted twice");
  expect_near(flat(logits[1]), row_of(whole_pass(*cpu, b), 32), 1e-3, "second feed");
  expect_near(flat(logits[2]), flat(whole_pass(*cpu, c)), 1e-3, "third feed");
}

// A cache as a policy might own: every head forgets other tokens, shows the rest backwards, some counted twice.
class ForgetfulCache final : public sim::KvCache {
 public:
  ForgetfulCache(const ModelCard& card, bool per_query_head)
      : full_(card),
        group_(per_query_head ? card.query_heads / card.kv_heads : 1),
        heads_(card.kv_heads * group_),
        dim_(card.head_dim),
        shown_(static_cast<std::size_t>(card.layers * heads_)) {}
  std::int64_t heads() const override { return heads_; }
  void append(std::int64_t layer, std::int64_t first, View<const float, 3> k, View<const float, 3> v) override {
    full_.append(layer, first, k, v);
    for (std::int64_t h = 0; h < heads_; ++h) {
      const sim::GroupView all = full_.read(layer, h / group_);
      Shown& to = shown_[static_cast<std::size_t>(layer * heads_ + h)];
      to = {};
      for (std::int64_t j = all.k.extent(0) - 1; j >= 0; --j) {
        if ((j * 7 + layer + 3 * h) % 5 < 2 && j + 1 < all.k.extent(0)) continue;
        to.position.push_back(all.position[static_cast<std::size_t>(j)]);
        to.log_count.push_back(j % 4 == 0 ? std::log(2.0f) : 0.0f);
        for (std::int64_t d = 0; d < dim_; ++d) to.k.push_back(all.k(j, d)), to.v.push_back(all.v(j, d));
      }
    }
    ++appends;
  }
  sim::GroupView read(std::int64_t layer, std::int64_t head) const override {
    const Shown& s = shown_[static_cast<std::size_t>(layer * heads_ + head)];
    const auto n = static_cast<std::int64_t>(s.position.size());
    return {{s.k.data(), {n, dim_}}, {s.v.data(), {n, dim_}}, s.position, s.log_count.data()};
  }
  void before_attention(std::int64_t, std::int64_t, View<const float, 3>) override { ++befores; }
  void layer_done(std::int64_t, std::int64_t, View<const float, 3> q) override {
    ++dones;
    last_q.clear();
    for (std::int64_t i = 0; i < q.extent(0); ++i)
      for (std::int64_t h = 0; h < q.extent(1); ++h)
        for (std::int64_t d = 0; d < q.extent(2); ++d) last_q.push_back(q(i, h, d));
  }
  int appends = 0, befores = 0, dones = 0;
  std::vector<float> last_q;

 private:
  struct Shown {
    std::vector<float> k, v, log_count;
    std::vector<std::int64_t> position;
  };
  sim::FullCache full_;
  std::int64_t group_, heads_, dim_;
  std::vector<Shown> shown_;
};

TEST_F(ModelCuda, PolicyCachesEqualTheCpuRuntime) {
  for_all(75, cases(6), [](std::mt19937_64& rng) {
    const RandomModel random = random_model(rng);
    const ModelCard& card = random.config.card;
    const auto cpu = random.build();
    const Built gpu = on_device(random);
    const auto ids = random_ids(80, card.vocab, rng());
    const bool per_query_head = std::uniform_int_distribution<int>(0, 1)(rng) == 1;
    ForgetfulCache cpu_cache(card, per_query_head), gpu_cache(card, per_query_head);
    KeepingTap want(card.layers, true, true), got(card.layers, true, true);
    for (const auto& [first, n] : {std::pair<std::int64_t, std::int64_t>{0, 70}, {70, 1}, {71, 9}}) {
      SCOPED_TRACE("tokens from " + std::to_string(first));
      const bool tapped = first != 70;
      sim::Feed feed{.first = first,
                     .ids = std::span(ids).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(n)),
                     .cache = &cpu_cache,
                     .tap = tapped ? &want : nullptr,
                     .decode = n == 1,
                     .logits_of = {n - 1}};
      const Array<float, 2> expected = std::move(sim::forward(*cpu, {&feed, 1})[0]);
      feed.cache = &gpu_cache, feed.tap = tapped ? &got : nullptr;
      expect_near(flat(sim::forward(*gpu, {&feed, 1})[0]), flat(expected), 1e-3, "logits over a policy's cache");
    }
    expect_same_taps(got, want, card.layers, 1e-3);
    EXPECT_EQ(gpu_cache.appends, cpu_cache.appends);
    EXPECT_EQ(gpu_cache.befores, cpu_cache.befores);
    EXPECT_EQ(gpu_cache.dones, cpu_cache.dones);
    expect_near(gpu_cache.last_q, cpu_cache.last_q, 1e-3, "q of layer_done");
  });
}

// Keeps what a device tap sees, by copies queued on the run's own stream.
class DeviceKeeper final : public sim::DeviceTap {
 public:
  DeviceKeeper(const ModelCard& card, std::int64_t rows) : card_(card), rows_(rows) {
    const auto make = [](std::int64_t n) { return kernels::DeviceBuffer(n, "a test"); };
    q_ = make(rows * card.layers * card.query_heads * card.head_dim * size_bytes(card.dtype));
    lse_ = make(rows * card.layers * card.query_heads * 4);
    hidden_ = make(rows * (card.layers + 1) * 4), attn_in_ = make(rows * card.layers * 4);
  }
  sim::StepRing ring() const override { return {q_.as(), lse_.as<float>(), hidden_.as<float>(), attn_in_.as<float>()}; }
  std::int64_t step(const TapPass& pass, kernels::DeviceStream) override {
    steps.push_back(pass.first);
    return static_cast<std::int64_t>(steps.size() - 1) % rows_;
  }
  void step_queued(const sim::KvCache&, kernels::DeviceStream) override { ++queued; }
  void layer(const sim::DeviceLayer& l, kernels::DeviceStream stream) override {
    std::vector<float> lse(static_cast<std::size_t>(l.n * card_.query_heads));
    kernels::copy_to_host(lse.data(), l.lse, static_cast<std::int64_t>(lse.size()) * 4, stream);
    kernels::synchronize(stream);
    prefill_lse.push_back(lse);
  }
  std::vector<float> ring_q(kernels::DeviceStream stream) const {
    std::vector<std::byte> bytes(static_cast<std::size_t>(q_.size_bytes()));
    std::vector<float> out(bytes.size() / static_cast<std::size_t>(size_bytes(card_.dtype)));
    kernels::copy_to_host(bytes.data(), q_.as(), q_.size_bytes(), stream);
    kernels::synchronize(stream);
    to_f32(card_.dtype, bytes.data(), static_cast<std::int64_t>(out.size()), out.data());
    return out;
  }
  std::vector<float> ring_floats(const kernels::DeviceBuffer& from, kernels::DeviceStream stream) const {
    std::vector<float> out(static_cast<std::size_t>(from.size_bytes() / 4));
    kernels::copy_to_host(out.data(), from.as(), from.size_bytes(), stream);
    kernels::synchronize(stream);
    return out;
  }
  std::vector<std::int64_t> steps;
  int queued = 0;
  std::vector<std::vector<float>> prefill_lse;
  kernels::DeviceBuffer q_, lse_, hidden_, attn_in_;

 private:
  ModelCard card_;
  std::int64_t rows_;
};

double norm_of(const std::vector<float>& values, std::int64_t row, std::int64_t width) {
  double squares = 0.0;
  for (std::int64_t i = 0; i < width; ++i) {
    const double x = static_cast<double>(values[static_cast<std::size_t>(row * width + i)]);
    squares += x * x;
  }
  return std::sqrt(squares);
}

TEST_F(ModelCuda, TheStepRingHoldsWhatATapSees) {
  std::mt19937_64 rng(76);
  const RandomModel random = random_model(rng);
  const Built model = on_device(random);
  const ModelCard& card = sim::model_config(*model).card;
  const std::int64_t prompt = 50, steps = 7, rows = 4;
  const auto ids = random_ids(prompt + steps, card.vocab);
  KeepingTap want(card.layers);
  whole_pass(*random.build(), ids, &want);
  DeviceKeeper keeper(card, rows);
  const auto cache = sim::cuda_cache(model, prompt + steps);
  const sim::Feed feed{.ids = std::span(ids).first(prompt), .cache = cache.get()};
  sim::forward(*model, {&feed, 1}, {}, &keeper);
  ASSERT_EQ(keeper.prefill_lse.size(), static_cast<std::size_t>(card.layers));
  for (std::int64_t l = 0; l < card.layers; ++l)
    expect_near(keeper.prefill_lse[static_cast<std::size_t>(l)],
                std::span(want.at(l).lse).first(static_cast<std::size_t>(prompt * card.query_heads)), 1e-3, "lse");
  for (std::int64_t s = 0; s < steps; ++s) {
    const sim::Feed one{.first = prompt + s,
                        .ids = std::span(ids).subspan(static_cast<std::size_t>(prompt + s), 1),
                        .cache = cache.get(),
                        .decode = true,
                        .logits_of = {0}};
    sim::forward(*model, {&one, 1}, {}, &keeper);
  }
  EXPECT_EQ(keeper.queued, steps);
  const kernels::DeviceStream stream = sim::model_stream(*model);
  const auto q = keeper.ring_q(stream), lse = keeper.ring_floats(keeper.lse_, stream),
             hidden = keeper.ring_floats(keeper.hidden_, stream), attn_in = keeper.ring_floats(keeper.attn_in_, stream);
  const std::int64_t width = card.query_heads * card.head_dim;
  for (std::int64_t s = steps - rows; s < steps; ++s) {  // the last rows are still there
    const std::int64_t at = s % rows, t = prompt + s;
    for (std::int64_t l = 0; l < card.layers; ++l) {
      const KeepingTap::Layer& layer = want.at(l);
      expect_near(std::span(q).subspan(static_cast<std::size_t>((at * card.layers + l) * width),
                                       static_cast<std::size_t>(width)),
                  std::span(layer.q).subspan(static_cast<std::size_t>(t * width), static_cast<std::size_t>(width)),
                  1e-3, "q");
      expect_near(std::span(lse).subspan(static_cast<std::size_t>((at * card.layers + l) * card.query_heads),
                                         static_cast<std::size_t>(card.query_heads)),
                  std::span(layer.lse).subspan(static_cast<std::size_t>(t * card.query_heads),
                                               static_cast<std::size_t>(card.query_heads)),
                  1e-3, "lse");
      EXPECT_NEAR(hidden[static_cast<std::size_t>(at * (card.layers + 1) + l)], norm_of(layer.input, t, card.hidden),
                  1e-3);
      EXPECT_NEAR(attn_in[static_cast<std::size_t>(at * card.layers + l)], norm_of(layer.attn_in, t, card.hidden),
                  1e-3);
    }
    EXPECT_NEAR(hidden[static_cast<std::size_t>(at * (card.layers + 1) + card.layers)],
                norm_of(want.final_residual, t, card.hidden), 1e-3);
  }
}

TEST_F(ModelCuda, Tiny3mInFp32AsTransformers) {
  const H5File file(source_dir() / "tests/golden/forward_tiny-3m.h5");
  const auto ids = file.read<std::int32_t>("ids").values;
  const ModelConfig config = traces::read_model_config(tiny_3m());
  const Built model = sim::build_cuda_model(config, traces::read_weights(tiny_3m(), false));
  const Array<float, 2> logits = whole_pass_cuda(model, ids);
  const auto tail = file.read<float>("logits_tail");
  expect_near(flat(logits).last(tail.values.size()), tail.values, 2e-3, "logits of the last positions");
  const auto nll = file.read<float>("nll").values;
  for (std::size_t t = 0; t < nll.size(); ++t)
    ASSERT_NEAR(sim::negative_log_probability(row_of(logits, static_cast<std::int64_t>(t)), ids[t + 1]), nll[t], 1e-3);

  const auto want = file.read<std::int32_t>("greedy").values;
  const auto cache = sim::cuda_cache(model, 281 + static_cast<std::int64_t>(want.size()));
  const sim::Feed feed{.ids = std::span(ids).first(281), .cache = cache.get(), .logits_of = {280}};
  Array<float, 2> next = sim::prefill(*model, feed, 64);
  std::vector<std::int32_t> got;
  for (std::int64_t position = 281; got.size() < want.size(); ++position) {
    got.push_back(sim::sample(flat(next), {}, 0, position));
    const sim::Feed step{
        .first = position, .ids = std::span(got).last(1), .cache = cache.get(), .decode = true, .logits_of = {0}};
    next = std::move(sim::forward(*model, {&step, 1})[0]);
  }
  EXPECT_EQ(got, want);
}

// bf16 keeps 8 bits: logits move by a few hundredths, and the likeliest token only where two are about equally likely.
TEST_F(ModelCuda, Tiny3mInBf16StaysNearFp32) {
  const H5File file(source_dir() / "tests/golden/forward_tiny-3m.h5");
  const auto ids = file.read<std::int32_t>("ids").values;
  const LoadedModel loaded = load_model(tiny_3m());
  const Array<float, 2> want = whole_pass(*loaded.model, ids);
  const Built model =
      sim::build_cuda_model(loaded.config, traces::read_weights(tiny_3m(), false), {.arithmetic = DType::bf16});
  const Array<float, 2> got = whole_pass_cuda(model, ids);
  std::vector<double> errors, nll_errors;
  std::int64_t agree = 0, rows = want.extent(0);
  for (std::int64_t i = 0; i < want.size(); ++i)
    errors.push_back(std::abs(static_cast<double>(got.data()[i]) - static_cast<double>(want.data()[i])));
  for (std::int64_t t = 0; t < rows; ++t)
    agree += sim::sample(row_of(got, t), {}, 0, t) == sim::sample(row_of(want, t), {}, 0, t);
  for (std::int64_t t = 0; t + 1 < rows; ++t)
    nll_errors.push_back(
        std::abs(sim::negative_log_probability(row_of(got, t), ids[static_cast<std::size_t>(t + 1)]) -
                 sim::negative_log_probability(row_of(want, t), ids[static_cast<std::size_t>(t + 1)])));
  std::sort(errors.begin(), errors.end());
  std::sort(nll_errors.begin(), nll_errors.end());
  const auto quantile = [](const std::vector<double>& sorted, double share) {
    return sorted[static_cast<std::size_t>(share * static_cast<double>(sorted.size() - 1))];
  };
  printf(
      "bf16 against fp32: logits |error| median %.4f, 99 %% %.4f, largest %.4f; NLL |error| median %.4f, 99 %% %.4f; "
      "same likeliest token in %lld of %lld rows\n",
      quantile(errors, 0.5), quantile(errors, 0.99), errors.back(), quantile(nll_errors, 0.5),
      quantile(nll_errors, 0.99), static_cast<long long>(agree), static_cast<long long>(rows));
  EXPECT_TRUE(quantile(errors, 0.5) <= 0.05) << quantile(errors, 0.5);
  EXPECT_TRUE(quantile(errors, 0.99) <= 0.3) << quantile(errors, 0.99);
  EXPECT_TRUE(static_cast<double>(agree) >= 0.97 * static_cast<double>(rows)) << agree << " of " << rows;
  EXPECT_EQ(sim::model_config(*model).card.dtype, DType::bf16);
}

TEST_F(ModelCuda, WrongIdsAndMissingTensorsAreErrors) {
  RandomModel random;
  random.fill();
  const Built model = on_device(random);
  const auto cache = sim::cuda_cache(model, 4);
  const std::vector<std::int32_t> wrong = {1, 70};
  const sim::Feed feed{.ids = wrong, .cache = cache.get()};
  EXPECT_THROW(sim::forward(*model, {&feed, 1}), Error);
  random.weights.tensors.erase("model.norm.weight");
  EXPECT_THROW(on_device(random), Error);
}

}  // namespace
}  // namespace kvgrind::tests
