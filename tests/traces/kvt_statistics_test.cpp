// Column sums, pooled maps, query statistics and the mass error against plain loops over what was fed.
#include <gtest/gtest.h>
#include <hdf5.h>

#include <cmath>

#include "tests/traces/kvt_driver.h"
#include "traces/kvt/attention_sums.h"
#include "traces/kvt/schema.h"

namespace kvgrind::tests {
namespace {

using traces::Recorder;
using traces::Trace;

std::shared_ptr<const Trace> record(const TemporaryFolder& folder, const Driver& driver, std::int64_t chunk,
                                    const char* name = "a.kvt") {
  Recorder recorder(folder / name, driver.plan(), {});
  for (std::size_t s = 0; s < driver.sequences().size(); ++s)
    driver.feed(recorder, static_cast<std::int64_t>(s), chunk);
  recorder.close();
  return Trace::open(folder / name);
}

// Σ over the queries [begin, end) of the attention that key t received.
double column(const Driver& driver, std::int64_t sequence, std::int64_t layer, std::int64_t head, std::int64_t t,
              std::int64_t begin, std::int64_t end) {
  double sum = 0.0;
  for (std::int64_t i = std::max(begin, t); i < end; ++i)
    sum += static_cast<double>(fed_attention(driver.source(sequence, i), i, layer, head)[static_cast<std::size_t>(t)]);
  return sum;
}

Driver two_sequences() {
  TokenSequence context = context_of(90, 4);
  context.segments = {{Role::system, 0, 11}, {Role::context, 11, 70}, {Role::question, 70, 90}};
  TokenSequence fork = context_of(17, 3);
  fork.parent = 0;
  fork.fork_at = 70;
  fork.segments = {{Role::question, 70, 80}, {Role::answer, 80, 87}};
  return Driver({}, {context, fork});
}

TEST(KvtStatistics, ColumnSumsPerSegmentAndInTotal) {
  const TemporaryFolder folder;
  const Driver driver = two_sequences();
  const auto trace = record(folder, driver, 64);
  for (std::int64_t s = 0; s < 2; ++s) {
    const traces::SequenceInfo& info = trace->sequences()[static_cast<std::size_t>(s)];
    const std::int64_t prefill_end = s == 0 ? 90 : 87;
    for (std::int64_t l = 0; l < 2; ++l) {
      for (std::int64_t g = -1; g < static_cast<std::int64_t>(info.segments.size()); ++g) {
        const auto sums = trace->column_sums(s, l, g);
        if (g >= 0 && info.segments[static_cast<std::size_t>(g)].role == Role::generated) {
          EXPECT_FALSE(sums.has_value());  // prefill queries only
          continue;
        }
        ASSERT_TRUE(sums.has_value()) << "sequence " << s << ", segment " << g;
        ASSERT_EQ(sums->extents(), (std::array<std::int64_t, 2>{4, info.tokens}));
        const std::int64_t begin = g < 0 ? 0 : info.segments[static_cast<std::size_t>(g)].begin;
        const std::int64_t end = g < 0 ? prefill_end : info.segments[static_cast<std::size_t>(g)].end;
        double mass = 0.0;
        for (std::int64_t h = 0; h < 4; ++h)
          for (std::int64_t t = 0; t < info.tokens; t += 3) {
            EXPECT_NEAR((*sums)(h, t), column(driver, s, l, h, t, begin, end), 1e-4)
                << "s" << s << " l" << l << " g" << g << " h" << h << " t" << t;
            mass += (*sums)(h, t);
          }
        EXPECT_GT(mass, 1.0);
      }
    }
  }
}

TEST(KvtStatistics, ChunkedIsWholeBitwise) {
  const TemporaryFolder folder;
  TokenSequence one = context_of(200);
  one.segments = {{Role::context, 0, 101}, {Role::question, 101, 200}};
  const Driver driver({.layers = 1}, {one});
  const auto whole = record(folder, driver, 1 << 20, "whole.kvt"), pieces = record(folder, driver, 64, "pieces.kvt");
  for (std::int64_t g = -1; g < 2; ++g) {
    const auto a = whole->column_sums(0, 0, g), b = pieces->column_sums(0, 0, g);
    ASSERT_TRUE(a && b);
    EXPECT_TRUE(std::equal(a->data(), a->data() + a->size(), b->data()));
  }
  const auto a = whole->query_statistics(0, 0, 1), b = pieces->query_statistics(0, 0, 1);
  ASSERT_EQ(a.size(), 2u);
  ASSERT_EQ(b.size(), 2u);
  for (std::size_t i = 0; i < 2; ++i) EXPECT_EQ(a[i].mean, b[i].mean);
  const auto m = whole->pooled_map(0, 0, 2), n = pieces->pooled_map(0, 0, 2);
  EXPECT_TRUE(std::equal(m->mean.data(), m->mean.data() + m->mean.size(), n->mean.data()));
}

TEST(KvtStatistics, PooledMapsHoldTheLargestAndTheMeanOfCausalPairs) {
  const TemporaryFolder folder;
  const Driver driver = two_sequences();
  const auto trace = record(folder, driver, 64);
  for (std::int64_t s = 0; s < 2; ++s) {
    const traces::SequenceInfo& info = trace->sequences()[static_cast<std::size_t>(s)];
    const auto map = trace->pooled_map(s, 1, 2);
    ASSERT_TRUE(map.has_value());
    EXPECT_EQ(map->cell_tokens, 8);
    const std::int64_t side = (info.tokens + 7) / 8;
    ASSERT_EQ(map->max.extent(0), side);
    Array<double, 2> most({side, side}), sum({side, side}), pairs({side, side});
    for (std::int64_t i = info.fork_at; i < info.tokens; ++i) {
      const std::vector<float> p = fed_attention(s, i, 1, 2);
      for (std::int64_t j = 0; j <= i; ++j) {
        most(i / 8, j / 8) = std::max(most(i / 8, j / 8), static_cast<double>(p[static_cast<std::size_t>(j)]));
        sum(i / 8, j / 8) += static_cast<double>(p[static_cast<std::size_t>(j)]);
        pairs(i / 8, j / 8) += 1.0;
      }
    }
    int compared = 0;
    for (std::int64_t r = 0; r < side; ++r)
      for (std::int64_t c = 0; c < side; ++c) {
        if (pairs(r, c) == 0.0) {
          EXPECT_EQ(map->max(r, c), 0.0f);
          continue;
        }
        ++compared;
        EXPECT_NEAR(map->max(r, c) / most(r, c), 1.0, 0.03);
        EXPECT_NEAR(map->mean(r, c) / (sum(r, c) / pairs(r, c)), 1.0, 0.03);
      }
    EXPECT_GT(compared, 10);
  }
}

TEST(KvtStatistics, CellsDoubleWhenTheSequenceGrows) {
  // 3000 tokens announced as 8: the map begins with cells of 8 and ends with cells of 16.
  traces::AttentionSums sums(1, 1, {}, 0, 8, false, true, true);
  double most = 0.0;
  for (std::int64_t at = 0; at < 3000; at += 60) {
    sums.prepare(at, 60, true);
    for (std::int64_t i = at; i < at + 60; ++i) {
      Array<float, 2> p({1, i + 1});
      std::vector<std::int64_t> position;
      for (std::int64_t j = 0; j <= i; ++j) position.push_back(j);
      p(0, i / 2) = 0.75f;
      p(0, i) += 0.25f;
      sums.add({.layer = 0, .head = 0, .first = i, .p = p, .key_position = position});
    }
  }
  EXPECT_EQ(sums.cell(), 16);
  EXPECT_EQ(sums.side(), 188);
  std::vector<std::uint8_t> max(static_cast<std::size_t>(traces::triangle(188))), mean(max.size());
  sums.map(0, 0, max.data(), mean.data());
  double total = 0.0;
  for (std::int64_t r = 0; r < 188; ++r)
    for (std::int64_t c = 0; c <= r; ++c) {
      const std::size_t at = static_cast<std::size_t>(traces::triangle(r) + c);
      const double pairs = c < r      ? 16.0 * static_cast<double>(std::min<std::int64_t>(3000, (r + 1) * 16) - r * 16)
                           : r == 187 ? 36.0
                                      : 136.0;
      total += traces::dequantise_attention(mean[at]) * pairs;
      most = std::max(most, static_cast<double>(traces::dequantise_attention(max[at])));
    }
  EXPECT_NEAR(total, 3000.0, 3000.0 * 0.03);
  EXPECT_NEAR(most, 1.0, 0.03);
  EXPECT_LT(sums.largest_mass_error(), 1e-6);
}

TEST(KvtStatistics, QuantisedAttentionIsWithinThreePerCent) {
  for (double x = 1.2e-6; x <= 1.0; x *= 1.01) {
    const float back = traces::dequantise_attention(traces::quantise_attention(static_cast<float>(x)));
    EXPECT_NEAR(back / x, 1.0, 0.028);
  }
  EXPECT_EQ(traces::quantise_attention(0.0f), 0);
  EXPECT_EQ(traces::quantise_attention(1e-9f), 0);
  EXPECT_EQ(traces::quantise_attention(1.0f), 254);
  EXPECT_TRUE(std::isnan(traces::dequantise_attention(traces::quantise_attention(NAN))));
}

TEST(KvtStatistics, QueryStatisticsOfPreRopeQueries) {
  const TemporaryFolder folder;
  const Driver driver = two_sequences();
  const auto trace = record(folder, driver, 64);
  for (std::int64_t s = 0; s < 2; ++s) {
    const auto rows = trace->query_statistics(s, 1, 3);
    // Parent: system from position 4, context, question, generated. Fork: the first two of these, its own three.
    const std::vector<std::pair<std::int64_t, std::int64_t>> ranges =
        s == 0 ? std::vector<std::pair<std::int64_t, std::int64_t>>{{0, 11}, {11, 70}, {70, 90}, {90, 93}}
               : std::vector<std::pair<std::int64_t, std::int64_t>>{{0, 11}, {11, 70}, {70, 80}, {80, 87}, {87, 89}};
    ASSERT_EQ(rows.size(), ranges.size());
    for (std::size_t i = 0; i < rows.size(); ++i) {
      EXPECT_EQ(rows[i].begin, ranges[i].first);
      EXPECT_EQ(rows[i].end, ranges[i].second);
      std::vector<double> mean(8), modulus(4), second(64);
      std::int64_t n = 0;
      for (std::int64_t t = std::max<std::int64_t>(4, ranges[i].first); t < ranges[i].second; ++t, ++n) {
        double q[8];
        for (std::int64_t d = 0; d < 8; ++d) q[d] = fed("q_pre", driver.source(s, t), t, 1, 3 * 8 + d);
        for (std::size_t d = 0; d < 8; ++d) {
          mean[d] += q[d];
          for (std::size_t e = 0; e < 8; ++e) second[d * 8 + e] += q[d] * q[e];
        }
        for (std::size_t m = 0; m < 4; ++m) modulus[m] += std::hypot(q[m], q[m + 4]);
      }
      EXPECT_EQ(rows[i].n, n);
      for (std::size_t d = 0; d < 8; ++d) {
        EXPECT_NEAR(rows[i].mean[d], mean[d] / static_cast<double>(n), 1e-5);
        for (std::size_t e = 0; e < 8; ++e)
          EXPECT_NEAR(rows[i].second_moment(static_cast<std::int64_t>(d), static_cast<std::int64_t>(e)),
                      second[d * 8 + e] / static_cast<double>(n), 1e-5);
      }
      for (std::size_t m = 0; m < 4; ++m)
        EXPECT_NEAR(rows[i].mean_modulus[m], modulus[m] / static_cast<double>(n), 1e-5);
    }
  }
}

TEST(KvtStatistics, MassErrorIsTheLargestSeen) {
  const TemporaryFolder folder;
  const Driver driver = two_sequences();
  EXPECT_LT(record(folder, driver, 64)->largest_mass_error(), 1e-5);
  traces::AttentionSums sums(1, 1, {}, 0, 8, true, false, true);
  Array<float, 2> p({2, 2});
  p(0, 0) = 0.875f;
  p(1, 0) = p(1, 1) = 0.5f;
  sums.prepare(0, 2, false);
  const std::vector<std::int64_t> position = {0, 1};
  sums.add({.layer = 0, .head = 0, .first = 0, .p = p, .key_position = position});
  EXPECT_DOUBLE_EQ(sums.largest_mass_error(), 0.125);
}

// Σ over all datasets of extent × type.
std::int64_t dataset_bytes(const std::filesystem::path& path) {
  std::int64_t total = 0;
  const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
  H5Literate(
      file, H5_INDEX_NAME, H5_ITER_NATIVE, nullptr,
      [](hid_t group, const char* name, const H5L_info_t*, void* out) -> herr_t {
        const hid_t dataset = H5Dopen2(group, name, H5P_DEFAULT), space = H5Dget_space(dataset),
                    type = H5Dget_type(dataset);
        *static_cast<std::int64_t*>(out) +=
            H5Sget_simple_extent_npoints(space) * static_cast<std::int64_t>(H5Tget_size(type));
        H5Tclose(type);
        H5Sclose(space);
        H5Dclose(dataset);
        return 0;
      },
      &total);
  H5Fclose(file);
  return total;
}

TEST(KvtStatistics, FileIsHardlyBiggerThanItsNumbers) {
  const TemporaryFolder folder;
  for (const DType dtype : {DType::bf16, DType::f32}) {
    const Driver driver(
        {.layers = 4, .query_heads = 6, .kv_heads = 2, .head_dim = 64, .hidden = 32, .vocab = 80, .dtype = dtype},
        {context_of(1536), context_of(513)});
    // Column sums and maps are slow to feed here, and would only make it easier.
    Recorder recorder(folder / "a.kvt", driver.plan(), {.column_sums = false, .pooled_maps = false, .force = true});
    for (std::int64_t s = 0; s < 2; ++s) driver.feed(recorder, s, 256, false);
    recorder.close();
    const std::int64_t bytes = dataset_bytes(folder / "a.kvt");
    const double size = static_cast<double>(std::filesystem::file_size(folder / "a.kvt"));
    EXPECT_GT(size, static_cast<double>(bytes));
    EXPECT_LE(size, 1.03 * static_cast<double>(bytes)) << size / static_cast<double>(bytes);
    RecordProperty(std::string(dtype_name(dtype)), std::to_string(size / static_cast<double>(bytes)));
    std::printf("size over numbers, %s: %.4f\n", std::string(dtype_name(dtype)).c_str(),
                size / static_cast<double>(bytes));
  }
}

}  // namespace
}  // namespace kvgrind::tests
