// The plain affine codec: coded and decoded in one go equals the packed form, which equals plain loops.
#include "sim/codec/affine_codec.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "core/dtype.h"
#include "tests/support/for_all.h"

namespace kvgrind::sim {
namespace {

// One value of a group by the formula alone.
float plain(const std::vector<float>& group, float x, int bits) {
  const auto [low, high] = std::minmax_element(group.begin(), group.end());
  const float largest = static_cast<float>((1 << bits) - 1);
  const float min = from_f16(to_f16(*low)), step = from_f16(to_f16((*high - *low) / largest));
  const float code = step > 0 ? std::nearbyint((x - min) / step) : 0.0f;
  return min + std::min(std::max(code, 0.0f), largest) * step;
}

TEST(Affine, EncodeEqualsThePackedFormAndThePlainLoop) {
  tests::for_all(71, 200, [](std::mt19937_64& rng) {
    const auto between = [&](std::int64_t low, std::int64_t high) {
      return std::uniform_int_distribution<std::int64_t>(low, high)(rng);
    };
    std::normal_distribution<float> normal(0.0f, 3.0f);
    const std::int64_t n = between(1, 40), dim = between(1, 24), group = between(1, 50);
    const int bits = static_cast<int>(between(1, 8));
    const bool by_token = between(0, 1) == 1;
    const AffineCodec codec(bits, group, by_token ? AffineCodec::Axis::token : AffineCodec::Axis::channel);
    Array<float, 2> x({n, dim});
    const bool constant = between(0, 9) == 0;
    for (std::int64_t i = 0; i < x.size(); ++i) x.data()[i] = constant ? 0.7f : normal(rng);
    const std::vector<std::byte> packed = codec.pack(x);
    EXPECT_EQ(static_cast<std::int64_t>(packed.size()), codec.stored_bytes(Part::key, n, dim));
    const Array<float, 2> unpacked = codec.unpack(packed, n, dim);
    Array<float, 2> encoded({n, dim});
    std::copy_n(x.data(), x.size(), encoded.data());
    codec.encode(Part::key, encoded.view());
    for (std::int64_t i = 0; i < n; ++i)
      for (std::int64_t d = 0; d < dim; ++d) {
        std::vector<float> members;
        for (std::int64_t j = 0; j < n; ++j)
          for (std::int64_t e = 0; e < dim; ++e)
            if (by_token ? j == i && e / group == d / group : e == d && j / group == i / group)
              members.push_back(x(j, e));
        ASSERT_EQ(encoded(i, d), unpacked(i, d)) << codec.text();
        ASSERT_EQ(encoded(i, d), plain(members, x(i, d), bits)) << codec.text();
      }
  });
}

}  // namespace
}  // namespace kvgrind::sim
