// For tests that need a device: they skip without one. Vectors travel with guard bands around them, which must be
// intact afterwards, and outputs are poisoned with NaN before they are written.
#pragma once
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "core/dtype.h"
#include "kernels/device/device.h"

namespace kvgrind::tests {

class OnDevice : public ::testing::Test {
 protected:
  void SetUp() override {
    if (kernels::device_count() == 0) GTEST_SKIP() << "no CUDA device";
    kernels::use_device(0);
    stream_ = kernels::make_stream();
  }
  kernels::DeviceStream stream() const { return stream_.get(); }

 private:
  kernels::StreamHandle stream_;
};

// n values on the device with 256 guard bytes on either side.
template <class T>
class Remote {
 public:
  static constexpr std::int64_t guard = 256;
  Remote(const std::vector<T>& values, kernels::DeviceStream stream)
      : n_(static_cast<std::int64_t>(values.size())), stream_(stream), bytes_(n_ * sizeof(T) + 2 * guard, "a test") {
    kernels::fill_bytes(bytes_.as(), 0xa5, bytes_.size_bytes(), stream);
    kernels::copy_to_device(data(), values.data(), n_ * static_cast<std::int64_t>(sizeof(T)), stream);
    kernels::synchronize(stream);
  }
  T* data() const { return reinterpret_cast<T*>(bytes_.as<char>() + guard); }
  std::vector<T> values() const {
    std::vector<char> all(static_cast<std::size_t>(bytes_.size_bytes()));
    kernels::copy_to_host(all.data(), bytes_.as(), bytes_.size_bytes(), stream_);
    kernels::synchronize(stream_);
    for (std::int64_t i = 0; i < guard; ++i) {
      EXPECT_EQ(static_cast<unsigned char>(all[static_cast<std::size_t>(i)]), 0xa5) << "written before the output";
      EXPECT_EQ(static_cast<unsigned char>(all[all.size() - 1 - static_cast<std::size_t>(i)]), 0xa5)
          << "written after the output";
    }
    std::vector<T> out(static_cast<std::size_t>(n_));
    std::memcpy(out.data(), all.data() + guard, out.size() * sizeof(T));
    return out;
  }

 private:
  std::int64_t n_;
  kernels::DeviceStream stream_;
  kernels::DeviceBuffer bytes_;
};

// fp32 values that live on the device in `dtype`; `exact` are the values after rounding to it.
class RemoteFloats {
 public:
  RemoteFloats(std::vector<float> values, DType dtype, kernels::DeviceStream stream)
      : dtype_(dtype), bytes_(encode(values, dtype), stream) {
    exact = decode(bytes_.values());
  }
  void* data() const { return bytes_.data(); }
  std::vector<float> values() const { return decode(bytes_.values()); }
  std::vector<float> exact;

 private:
  static std::vector<char> encode(const std::vector<float>& values, DType dtype) {
    std::vector<char> out(values.size() * static_cast<std::size_t>(size_bytes(dtype)));
    from_f32(dtype, values.data(), static_cast<std::int64_t>(values.size()), out.data());
    return out;
  }
  std::vector<float> decode(const std::vector<char>& bytes) const {
    std::vector<float> out(bytes.size() / static_cast<std::size_t>(size_bytes(dtype_)));
    to_f32(dtype_, bytes.data(), static_cast<std::int64_t>(out.size()), out.data());
    return out;
  }
  DType dtype_;
  Remote<char> bytes_;
};

inline std::vector<float> normal_values(std::mt19937_64& rng, std::int64_t n, float deviation = 1.0f) {
  std::normal_distribution<float> normal(0.0f, deviation);
  std::vector<float> out(static_cast<std::size_t>(n));
  for (float& x : out) x = normal(rng);
  return out;
}
inline std::vector<float> poison(std::int64_t n) {
  return std::vector<float>(static_cast<std::size_t>(n), std::numeric_limits<float>::quiet_NaN());
}

// |got − want| ≤ absolute + relative · |want| everywhere; NaN never passes, infinities must be equal.
inline void expect_close(const std::vector<float>& got, const std::vector<float>& want, float absolute, float relative,
                         const char* what) {
  ASSERT_EQ(got.size(), want.size());
  int shown = 0;
  for (std::size_t i = 0; i < got.size() && shown < 5; ++i) {
    if (got[i] == want[i]) continue;
    if (!(std::abs(got[i] - want[i]) <= absolute + relative * std::abs(want[i]))) {
      ADD_FAILURE() << what << "[" << i << "]: " << got[i] << ", expected " << want[i];
      ++shown;
    }
  }
}

// ‖got − want‖ / ‖want‖, in double.
inline double relative_error(const std::vector<float>& got, const std::vector<float>& want) {
  double difference = 0.0, norm = 0.0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double d = static_cast<double>(got[i]) - static_cast<double>(want[i]);
    difference += d * d;
    norm += static_cast<double>(want[i]) * static_cast<double>(want[i]);
  }
  return difference == 0.0 ? 0.0 : std::sqrt(difference / norm);
}

// How many random cases: n, or fewer under a slow tool (KVGRIND_TEST_SHARE=0.1).
inline int cases(int n) {
  const char* share = std::getenv("KVGRIND_TEST_SHARE");
  return share ? std::max(1, static_cast<int>(n * std::atof(share))) : n;
}

}  // namespace kvgrind::tests
