// Rotary frequencies of every scaling kind. Results are fp32 and computed in the reference's order of operations, with
// powers taken in double: exact to the last place or one beside it.
//   source: huggingface/transformers modeling_rope_utils.py; deviations: none known
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/error.h"
#include "core/model_config.h"

namespace kvgrind {
namespace {

[[noreturn]] void refuse(const RopeParameters& rope, const std::string& found, const std::string& expected) {
  throw Error(Category::damaged, {.doing = "computing rotary frequencies",
                                  .on = fmt::format("of type {}", rope.type),
                                  .found = found,
                                  .expected = expected});
}

void require_positive(const RopeParameters& rope, const char* name, double value) {
  if (!(value > 0.0) || !std::isfinite(value)) refuse(rope, fmt::format("{} {}", name, value), "a positive number");
}

// base^(2m/r) for m in [0, r/2), exponent and result in fp32.
std::vector<float> wavelengths_over_2pi(double base, std::int64_t rotary_dim) {
  std::vector<float> power(static_cast<std::size_t>(rotary_dim / 2));
  const auto base32 = static_cast<float>(base);
  for (std::size_t m = 0; m < power.size(); ++m) {
    const float exponent = static_cast<float>(2 * m) / static_cast<float>(rotary_dim);
    power[m] = static_cast<float>(std::pow(static_cast<double>(base32), static_cast<double>(exponent)));
  }
  return power;
}

std::vector<float> plain(double base, std::int64_t rotary_dim) {
  std::vector<float> f = wavelengths_over_2pi(base, rotary_dim);
  for (float& value : f) value = 1.0f / value;
  return f;
}

std::vector<float> llama3(const RopeParameters& rope, std::int64_t rotary_dim, double trained) {
  require_positive(rope, "low_freq_factor", rope.low_freq_factor);
  if (!(rope.high_freq_factor > rope.low_freq_factor) || !std::isfinite(rope.high_freq_factor))
    refuse(rope, fmt::format("high_freq_factor {}", rope.high_freq_factor), "more than low_freq_factor");
  const auto factor = static_cast<float>(rope.factor);
  const auto longest = static_cast<float>(trained / rope.low_freq_factor);
  const auto shortest = static_cast<float>(trained / rope.high_freq_factor);
  std::vector<float> f = plain(rope.theta, rotary_dim);
  for (float& value : f) {
    const float wavelength = static_cast<float>(2.0 * std::numbers::pi) / value;
    if (wavelength > longest) {
      value /= factor;
    } else if (!(wavelength < shortest)) {
      const float t = (static_cast<float>(trained) / wavelength - static_cast<float>(rope.low_freq_factor)) /
                      static_cast<float>(rope.high_freq_factor - rope.low_freq_factor);
      value = (1.0f - t) * value / factor + t * value;
    }
  }
  return f;
}

std::vector<float> yarn(const RopeParameters& rope, std::int64_t rotary_dim, double trained) {
  require_positive(rope, "beta_fast", rope.beta_fast);
  require_positive(rope, "beta_slow", rope.beta_slow);
  if (!(rope.theta > 1.0)) refuse(rope, fmt::format("rope_theta {}", rope.theta), "more than 1");
  // The dimension whose wave turns `turns` times over the trained length.
  const auto dimension = [&](double turns) {
    return static_cast<double>(rotary_dim) * std::log(trained / (turns * 2.0 * std::numbers::pi)) /
           (2.0 * std::log(rope.theta));
  };
  double low = dimension(rope.beta_fast), high = dimension(rope.beta_slow);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(rotary_dim - 1));
  if (low == high) high += 0.001;
  const auto factor = static_cast<float>(rope.factor);
  std::vector<float> f = wavelengths_over_2pi(rope.theta, rotary_dim);
  for (std::size_t m = 0; m < f.size(); ++m) {
    const float ramp = (static_cast<float>(m) - static_cast<float>(low)) / static_cast<float>(high - low);
    const float keep = 1.0f - std::clamp(ramp, 0.0f, 1.0f);  // share of the unscaled frequency
    f[m] = 1.0f / (factor * f[m]) * (1.0f - keep) + 1.0f / f[m] * keep;
  }
  return f;
}

double yarn_attention_factor(const RopeParameters& rope) {
  if (rope.attention_factor) return *rope.attention_factor;
  const auto gain = [&](double mscale) {
    return rope.factor <= 1.0 ? 1.0 : 0.1 * mscale * std::log(rope.factor) + 1.0;
  };
  if (rope.mscale.value_or(0.0) != 0.0 && rope.mscale_all_dim.value_or(0.0) != 0.0)
    return gain(*rope.mscale) / gain(*rope.mscale_all_dim);
  return gain(1.0);
}

std::vector<float> longrope(const RopeParameters& rope, std::int64_t rotary_dim, bool beyond_trained) {
  std::vector<float> f = wavelengths_over_2pi(rope.theta, rotary_dim);
  // Both lists, whichever this run needs: a file must not turn bad when a text grows.
  for (const auto& [name, factors] :
       {std::pair{"short_factor", &rope.short_factor}, std::pair{"long_factor", &rope.long_factor}}) {
    if (factors->size() != f.size())
      refuse(rope, fmt::format("{} values in {}", factors->size(), name), fmt::format("{}", f.size()));
    for (const double factor : *factors) require_positive(rope, name, factor);
  }
  const std::vector<double>& factors = beyond_trained ? rope.long_factor : rope.short_factor;
  for (std::size_t m = 0; m < f.size(); ++m) f[m] = 1.0f / (static_cast<float>(factors[m]) * f[m]);
  return f;
}

// factor 1 = not given: the ratio of the two lengths.
double longrope_attention_factor(const RopeParameters& rope, double max_positions, double trained) {
  if (rope.attention_factor) return *rope.attention_factor;
  const double factor = rope.factor != 1.0 ? rope.factor : max_positions / trained;
  return factor <= 1.0 ? 1.0 : std::sqrt(1.0 + std::log(factor) / std::log(trained));
}

RopeSet resolve(const RopeParameters& rope, const ModelCard& card, std::int64_t length) {
  require_positive(rope, "rope_theta", rope.theta);
  require_positive(rope, "factor", rope.factor);
  const auto rotary_dim = static_cast<std::int64_t>(static_cast<double>(card.head_dim) * rope.partial_rotary_factor);
  if (rotary_dim < 2 || rotary_dim > card.head_dim || rotary_dim % 2 != 0)
    refuse(rope, fmt::format("rotary dimension {}", rotary_dim), fmt::format("an even number up to {}", card.head_dim));
  const auto max_positions = static_cast<double>(card.max_positions);
  const double trained =
      rope.original_max_positions > 0 ? static_cast<double>(rope.original_max_positions) : max_positions;
  if (rope.type != "default" && rope.type != "linear" && !(trained > 1.0))
    refuse(rope, fmt::format("original_max_position_embeddings {}", trained), "more than 1");
  const auto announced = static_cast<double>(length > 0 ? length : card.max_positions);

  RopeSet set;
  set.type = rope.type;
  double attention_factor = 1.0;
  if (rope.type == "default") {
    set.inv_freq = plain(rope.theta, rotary_dim);
  } else if (rope.type == "linear") {
    set.inv_freq = plain(rope.theta, rotary_dim);
    for (float& value : set.inv_freq) value /= static_cast<float>(rope.factor);
  } else if (rope.type == "dynamic") {
    if (rotary_dim < 4) refuse(rope, fmt::format("rotary dimension {}", rotary_dim), "at least 4");
    const double stretch = rope.factor * std::max(announced, max_positions) / max_positions - (rope.factor - 1.0);
    const auto r = static_cast<double>(rotary_dim);
    set.inv_freq = plain(rope.theta * std::pow(stretch, r / (r - 2.0)), rotary_dim);
  } else if (rope.type == "llama3") {
    set.inv_freq = llama3(rope, rotary_dim, trained);
  } else if (rope.type == "yarn") {
    set.inv_freq = yarn(rope, rotary_dim, trained);
    attention_factor = yarn_attention_factor(rope);
  } else if (rope.type == "longrope") {
    set.inv_freq = longrope(rope, rotary_dim, announced > trained);
    attention_factor = longrope_attention_factor(rope, max_positions, trained);
  } else {
    refuse(rope, "an unknown type", "default, linear, dynamic, llama3, yarn or longrope");
  }
  set.attention_factor = static_cast<float>(attention_factor);
  if (!(set.attention_factor > 0.0f) || !std::isfinite(set.attention_factor))
    refuse(rope, fmt::format("attention_factor {}", attention_factor), "a positive number");
  for (const float value : set.inv_freq)
    if (!std::isfinite(value) || value < 0.0f) refuse(rope, fmt::format("frequency {}", value), "a finite number");
  return set;
}

}  // namespace

std::vector<RopeSet> resolve_rope(const ModelConfig& config, std::int64_t length) {
  std::vector<RopeSet> sets;
  for (const RopeParameters& rope : config.rope) sets.push_back(resolve(rope, config.card, length));
  return sets;
}

}  // namespace kvgrind
