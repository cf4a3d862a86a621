#include "kernels/linear/linear.h"

#include <gtest/gtest.h>

#include "core/dtype.h"
#include "core/error.h"
#include "tests/kernels/kernel_check.h"
#include "tests/support/for_all.h"

namespace kvgrind::tests {
namespace {

using kernels::linear;
using kernels::linear_ref;
using kernels::LinearPart;
using kernels::pack_linear;
using kernels::PackedLinear;

// A stored tensor with its bytes, placed at an odd address: files align nothing.
struct Stored {
  std::vector<std::byte> bytes;
  Tensor tensor;
  Stored(DType dtype, std::vector<std::int64_t> shape, const std::vector<float>& values) {
    bytes.resize(values.size() * static_cast<std::size_t>(size_bytes(dtype)) + 1);
    from_f32(dtype, values.data(), static_cast<std::int64_t>(values.size()), bytes.data() + 1);
    tensor = {.dtype = dtype, .shape = std::move(shape), .data = bytes.data() + 1};
  }
  Stored(const Stored&) = delete;
};

struct Case {
  std::int64_t inputs;
  std::vector<std::int64_t> outputs;
  std::vector<DType> dtypes;
  std::vector<bool> bias;
};

class Weights {
 public:
  Weights(std::mt19937_64& rng, const Case& c) {
    for (std::size_t i = 0; i < c.outputs.size(); ++i) {
      weights_.push_back(std::make_unique<Stored>(c.dtypes[i], std::vector<std::int64_t>{c.outputs[i], c.inputs},
                                                  random_values(rng, c.outputs[i] * c.inputs, 0.05f)));
      biases_.push_back(std::make_unique<Stored>(c.dtypes[i], std::vector<std::int64_t>{c.outputs[i]},
                                                 random_values(rng, c.outputs[i])));
      parts.push_back({&weights_.back()->tensor, c.bias[i] ? &biases_.back()->tensor : nullptr});
      outputs += c.outputs[i];
    }
  }
  std::vector<LinearPart> parts;
  std::int64_t outputs = 0;

 private:
  std::vector<std::unique_ptr<Stored>> weights_, biases_;
};

// fp32 sums of K products: rounding grows with the size of the terms, not of the sum.
double tolerance(std::int64_t inputs) { return 2e-6 * std::sqrt(static_cast<double>(inputs)) * 10.0; }

TEST(Linear, EqualsReferenceAtEverySizeTypeAndLevel) {
  at_every_isa([] {
    std::mt19937_64 rng(base_seed(7));
    for (const DType dtype : {DType::f32, DType::f16, DType::bf16})
      for (const std::int64_t inputs : {1, 17, 81, 987})
        for (const std::int64_t outputs : {1, 2, 17, 81, 200}) {
          const Weights weights(rng, {inputs, {outputs}, {dtype}, {outputs % 2 == 0}});
          const PackedLinear packed = pack_linear(weights.parts);
          EXPECT_EQ(packed.inputs(), inputs);
          EXPECT_EQ(packed.outputs(), outputs);
          for (const std::int64_t rows : {1, 2, 3, 5, 14, 17, 81}) {
            SCOPED_TRACE(testing::Message()
                         << dtype_name(dtype) << " M " << rows << " K " << inputs << " N " << outputs);
            GuardedMatrix x(rows, inputs, 3, 1, random_values(rng, rows * inputs));
            GuardedMatrix found(rows, outputs, 5, 1), expected(rows, outputs);
            linear(packed, x.view(), found.view());
            linear_ref(weights.parts, x.view(), expected.view());
            EXPECT_TRUE(near(found.values(), expected.values(), tolerance(inputs), 1e-5));
            EXPECT_TRUE(found.guards_intact());
            EXPECT_FALSE(degenerate(expected.values()));
          }
        }
  });
}

TEST(Linear, ManyRowsCrossTheChunksAndDepthPieces) {
  at_every_isa([] {
    std::mt19937_64 rng(base_seed(8));
    const Weights weights(rng, {300, {70}, {DType::bf16}, {true}});
    GuardedMatrix x(987, 300, 0, 1, random_values(rng, 987 * 300)), found(987, 70), expected(987, 70);
    linear(pack_linear(weights.parts), x.view(), found.view());
    linear_ref(weights.parts, x.view(), expected.view());
    EXPECT_TRUE(near(found.values(), expected.values(), tolerance(300), 1e-5));
    EXPECT_TRUE(found.guards_intact());
  });
}

TEST(Linear, StackedPartsOfDifferentTypesWithAndWithoutBias) {
  at_every_isa([] {
    for_all(9, 6, [](std::mt19937_64& rng) {
      const Weights weights(rng, {96, {48, 16, 33}, {DType::bf16, DType::f16, DType::f32}, {true, false, true}});
      GuardedMatrix x(21, 96, 0, 2, random_values(rng, 21 * 96));  // strided columns too
      GuardedMatrix found(21, 97, 1, 3), expected(21, 97);
      linear(pack_linear(weights.parts), x.view(), found.view());
      linear_ref(weights.parts, x.view(), expected.view());
      EXPECT_TRUE(near(found.values(), expected.values(), tolerance(96), 1e-5));
      EXPECT_TRUE(found.guards_intact());
    });
  });
}

TEST(Linear, ARowsBitsDependOnThatRowAlone) {
  at_every_isa([] {
    for_all(10, 4, [](std::mt19937_64& rng) {
      const std::int64_t inputs = 520, outputs = 200, rows = 600;
      const Weights weights(rng, {inputs, {outputs}, {DType::bf16}, {true}});
      const PackedLinear packed = pack_linear(weights.parts);
      GuardedMatrix x(rows, inputs, 0, 1, random_values(rng, rows * inputs)), whole(rows, outputs);
      linear(packed, x.view(), whole.view());
      for (const std::int64_t count : {1, 2, 3, 7, 13, 14, 15, 64, 100, 333}) {
        const std::int64_t begin = static_cast<std::int64_t>(rng() % static_cast<std::uint64_t>(rows - count + 1));
        GuardedMatrix part(count, outputs);
        linear(packed, x.view().slice(begin, count), part.view());
        const std::vector<float> all = whole.values();
        EXPECT_TRUE(same_bits(
            part.values(), std::vector<float>(all.begin() + begin * outputs, all.begin() + (begin + count) * outputs)))
            << count << " rows from " << begin;
      }
    });
  });
}

TEST(Linear, OneThreadEqualsTwoAndFiveBitwise) {
  at_every_isa([] {
    std::mt19937_64 rng(base_seed(11));
    for (const std::int64_t rows : {1, 9, 64, 700}) {
      const Weights weights(rng, {384, {1500}, {DType::bf16}, {false}});
      const PackedLinear packed = pack_linear(weights.parts);
      GuardedMatrix x(rows, 384, 0, 1, random_values(rng, rows * 384));
      std::vector<std::vector<float>> found;
      for (const int threads : {1, 2, 5}) {
        const Threads scope(threads);
        GuardedMatrix y(rows, 1500);
        linear(packed, x.view(), y.view());
        found.push_back(y.values());
      }
      EXPECT_TRUE(same_bits(found[0], found[1]));
      EXPECT_TRUE(same_bits(found[0], found[2]));
    }
  });
}

TEST(Linear, NanAndInfinityStayInTheirRowsAndColumns) {
  at_every_isa([] {
    std::mt19937_64 rng(base_seed(12));
    for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
      std::vector<float> values = random_values(rng, 81 * 40);
      values[3 * 40 + 7] = std::numeric_limits<float>::infinity();
      values[70 * 40 + 1] = std::numeric_limits<float>::quiet_NaN();
      values[40] = 6e-8f;  // subnormal as a half
      const Stored weight(dtype, {81, 40}, values);
      const std::vector<LinearPart> parts = {{&weight.tensor, nullptr}};
      std::vector<float> rows = random_values(rng, 19 * 40);
      rows[5 * 40 + 2] = std::numeric_limits<float>::quiet_NaN();
      rows[6 * 40 + 3] = -std::numeric_limits<float>::infinity();
      GuardedMatrix x(19, 40, 0, 1, rows), found(19, 81), expected(19, 81);
      linear(pack_linear(parts), x.view(), found.view());
      linear_ref(parts, x.view(), expected.view());
      EXPECT_TRUE(near(found.values(), expected.values(), 1e-2, 1e-5));
    }
  });
}

TEST(Linear, RefusesWeightsAndBiasesThatDoNotFit) {
  const std::vector<float> values(48, 1.0f);
  const Stored weight(DType::f32, {6, 8}, values), other(DType::f32, {8, 6}, values), flat(DType::f32, {48}, values);
  const Stored bias(DType::f32, {5}, std::vector<float>(5));
  for (const std::vector<LinearPart>& parts :
       {std::vector<LinearPart>{{&weight.tensor, nullptr}, {&other.tensor, nullptr}},
        std::vector<LinearPart>{{&flat.tensor, nullptr}}, std::vector<LinearPart>{{&weight.tensor, &bias.tensor}}}) {
    try {
      pack_linear(parts);
      ADD_FAILURE() << "accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.category(), Category::damaged);
      EXPECT_NE(std::string(error.what()).find("shape"), std::string::npos);
    }
  }
}

}  // namespace
}  // namespace kvgrind::tests
