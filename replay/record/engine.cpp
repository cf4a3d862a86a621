#include "replay/record/engine.h"

#include <algorithm>
#include <charconv>
#include <utility>

#include "core/error.h"
#include "replay/record/record.h"

namespace kvgrind::replay {
namespace {

// The first `tokens` tokens of a plain cache, as a cache of its own.
std::unique_ptr<sim::KvCache> fork_plain(const ModelCard& card, const sim::KvCache& from, std::int64_t tokens) {
  std::unique_ptr<sim::KvCache> out = sim::full_cache(card);
  Array<float, 3> k({tokens, card.kv_heads, card.head_dim}), v({tokens, card.kv_heads, card.head_dim});
  for (std::int64_t layer = 0; layer < card.layers; ++layer) {
    for (std::int64_t head = 0; head < card.kv_heads; ++head) {
      const sim::GroupView group = from.read(layer, head);
      for (std::int64_t t = 0; t < tokens; ++t) {
        std::copy_n(&group.k(t, 0), card.head_dim, &k(t, head, 0));
        std::copy_n(&group.v(t, 0), card.head_dim, &v(t, head, 0));
      }
    }
    out->append(layer, 0, k, v);
  }
  return out;
}

int number_of(std::string_view device) {
  const std::string_view number = device.substr(device.find(':') + 1);
  int out = 0;
  std::from_chars(number.data(), number.data() + number.size(), out);
  return out;
}

}  // namespace

Engine::Engine(const ModelConfig& config, const Weights& weights, std::string_view device, DType arithmetic) {
  if (device == "cpu") {
    model_ = sim::build_model(config, weights);
    return;
  }
  device_ = number_of(device);
  model_ = sim::build_cuda_model(config, weights, {.device = device_, .arithmetic = arithmetic});
}

DType Engine::arithmetic() const {
  return on_device() ? sim::model_config(*std::get<Cuda>(model_)).card.dtype : DType::f32;
}

std::unique_ptr<sim::KvCache> Engine::cache(std::int64_t length) const {
  if (on_device()) return sim::cuda_cache(std::get<Cuda>(model_), length);
  return sim::full_cache(sim::model_config(*std::get<Cpu>(model_)).card);
}

std::unique_ptr<sim::KvCache> Engine::fork(const sim::KvCache& from, std::int64_t tokens, std::int64_t length) const {
  if (on_device()) return sim::fork_cuda_cache(from, tokens, length);
  return fork_plain(sim::model_config(*std::get<Cpu>(model_)).card, from, tokens);
}

Array<float, 2> Engine::forward(const sim::Feed& feed, const sim::RunOptions& options, sim::DeviceTap* tap) const {
  if (on_device()) return std::move(sim::forward(*std::get<Cuda>(model_), {&feed, 1}, options, tap)[0]);
  return std::move(sim::forward(*std::get<Cpu>(model_), {&feed, 1}, options)[0]);
}

Array<float, 2> Engine::output_projection(std::int64_t layer) const {
  if (on_device()) return sim::output_projection(*std::get<Cuda>(model_), layer);
  return sim::output_projection(*std::get<Cpu>(model_), layer);
}

kernels::DeviceStream Engine::stream() const { return sim::model_stream(*std::get<Cuda>(model_)); }

PlacedModel place_model(const ModelConfig& config, const Weights& weights, std::string_view asked, DType arithmetic) {
  PlacedModel out{nullptr, resolve_device(asked), {}};
  if (out.device != "cpu") {
    try {
      out.model =
          sim::build_model_on_device(config, weights, {.device = number_of(out.device), .arithmetic = arithmetic});
      return out;
    } catch (const Error& error) {
      if (asked != "auto" || error.category() != Category::unavailable) throw;
      out.fallback = error.what();
      out.device = "cpu";
    }
  }
  out.model = sim::build_model(config, weights);
  return out;
}

}  // namespace kvgrind::replay
