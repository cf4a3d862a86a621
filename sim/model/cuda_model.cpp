// From configuration and named tensors to a model on a device.
#include "sim/model/cuda_model.h"

#include <cmath>
#include <string>

#include "core/array.h"
#include "core/error.h"
#include "kernels/convert/convert_cuda.h"
#include "sim/model/cuda_runtime.h"
#include "sim/model/model_tensors.h"

namespace kvgrind::sim {
namespace {

using kernels::DeviceBuffer;

// Tensors stacked along their first axis, converted to `dtype`.
DeviceBuffer upload(const std::vector<const Tensor*>& parts, DType dtype, kernels::DeviceStream stream) {
  std::int64_t elements = 0;
  for (const Tensor* part : parts) elements += part->elements();
  DeviceBuffer out(elements * size_bytes(dtype), "the model's weights");
  std::int64_t at = 0;
  for (const Tensor* part : parts) {
    const std::int64_t n = part->elements();
    std::byte* to = out.as<std::byte>() + at * size_bytes(dtype);
    at += n;
    if (part->dtype == dtype) {
      kernels::copy_to_device(to, part->data, n * size_bytes(dtype), stream);
    } else {
      std::vector<float> wide(static_cast<std::size_t>(n));
      to_f32(part->dtype, part->data, n, wide.data());
      std::vector<std::byte> bytes(static_cast<std::size_t>(n * size_bytes(dtype)));
      from_f32(dtype, wide.data(), n, bytes.data());
      kernels::copy_to_device(to, bytes.data(), n * size_bytes(dtype), stream);
      kernels::synchronize(stream);
    }
  }
  kernels::synchronize(stream);
  return out;
}

DeviceBuffer upload(const std::vector<float>& values, kernels::DeviceStream stream) {
  DeviceBuffer out(static_cast<std::int64_t>(values.size() * sizeof(float)), "the model's weights");
  kernels::copy_to_device(out.as(), values.data(), out.size_bytes(), stream);
  kernels::synchronize(stream);
  return out;
}

// Biases of stacked parts; parts without one count as zero; no part has one: no buffer.
DeviceBuffer upload_bias(const std::vector<kernels::LinearPart>& parts, kernels::DeviceStream stream) {
  std::vector<float> all;
  bool any = false;
  for (const kernels::LinearPart& part : parts) {
    std::vector<float> one(static_cast<std::size_t>(part.weight->shape[0]));
    if (part.bias) to_f32(part.bias->dtype, part.bias->data, part.bias->elements(), one.data());
    any = any || part.bias;
    all.insert(all.end(), one.begin(), one.end());
  }
  return any ? upload(all, stream) : DeviceBuffer();
}

DeviceBuffer upload_linear(const std::vector<kernels::LinearPart>& parts, DType dtype, kernels::DeviceStream stream) {
  std::vector<const Tensor*> weights;
  for (const kernels::LinearPart& part : parts) weights.push_back(part.weight);
  return upload(weights, dtype, stream);
}

DeviceBuffer upload_optional(const Tensor* tensor, kernels::DeviceStream stream) {
  return tensor ? upload({tensor}, DType::f32, stream) : DeviceBuffer();
}

CudaLayer upload_layer(const LayerTensors& t, DType dtype, kernels::DeviceStream stream) {
  CudaLayer layer;
  layer.attention_norm = upload({t.attention_norm}, DType::f32, stream);
  layer.mlp_norm = upload({t.mlp_norm}, DType::f32, stream);
  layer.q_norm = upload_optional(t.q_norm, stream);
  layer.k_norm = upload_optional(t.k_norm, stream);
  layer.qkv = upload_linear({t.q, t.k, t.v}, dtype, stream);
  layer.qkv_bias = upload_bias({t.q, t.k, t.v}, stream);
  layer.output = upload_linear({t.o}, dtype, stream);
  layer.output_bias = upload_bias({t.o}, stream);
  layer.gate_up = upload_linear({t.gate, t.up}, dtype, stream);
  layer.gate_up_bias = upload_bias({t.gate, t.up}, stream);
  layer.down = upload_linear({t.down}, dtype, stream);
  layer.down_bias = upload_bias({t.down}, stream);
  return layer;
}

std::shared_ptr<CudaModel> empty_model(const ModelConfig& config, const CudaOptions& options) {
  if (options.arithmetic == DType::f16)
    throw Error(
        Category::usage,
        {.doing = "building model", .on = "a CUDA device", .found = "f16 arithmetic", .expected = "f32 or bf16"});
  if (config.card.head_dim > 256)
    throw Error(Category::damaged, {.doing = "building model",
                                    .on = config.card.name,
                                    .found = "a head_dim of " + std::to_string(config.card.head_dim),
                                    .expected = "at most 256 on a CUDA device",
                                    .next = "use --device cpu"});
  kernels::use_device(options.device);
  auto model = std::make_shared<CudaModel>();
  model->config = config;
  model->config.card.dtype = options.arithmetic;
  model->device = options.device;
  model->context = std::make_unique<CudaContext>(options.device);
  if (!config.card.sinks.empty()) model->sinks = upload(config.card.sinks, model->context->stream.get());
  return model;
}

}  // namespace

CudaContext::CudaContext(int device)
    : info(kernels::device_info(device)), stream(kernels::make_stream()), products(stream.get()) {}

kernels::AttentionShape CudaModel::attention_shape(std::int64_t layer) const {
  const ModelCard& card = config.card;
  kernels::AttentionShape shape;
  shape.dtype = dtype();
  shape.query_heads = card.query_heads;
  shape.cache_heads = card.kv_heads;
  shape.head_dim = card.head_dim;
  shape.scale = card.scale;
  shape.softcap = card.softcap;
  shape.window = card.layer[static_cast<std::size_t>(layer)].window;
  if (sinks) shape.sinks = sinks.as<float>() + layer * card.query_heads;
  return shape;
}

std::shared_ptr<const CudaModel> build_cuda_model(const ModelConfig& config, const Weights& weights,
                                                  const CudaOptions& options) {
  const ModelTensors found = find_tensors(config, weights);
  const std::shared_ptr<CudaModel> model = empty_model(config, options);
  const kernels::DeviceStream stream = model->context->stream.get();
  model->embedding = upload({found.embedding}, options.arithmetic, stream);
  if (found.head != found.embedding) model->own_head = upload({found.head}, options.arithmetic, stream);
  model->final_norm = upload({found.final_norm}, DType::f32, stream);
  for (const LayerTensors& layer : found.layers)
    model->layers.push_back(upload_layer(layer, options.arithmetic, stream));
  return model;
}

std::shared_ptr<const CudaModel> random_cuda_model(const ModelConfig& config, const CudaOptions& options,
                                                   std::uint64_t seed) {
  check_config(config);
  const std::shared_ptr<CudaModel> model = empty_model(config, options);
  const ModelCard& card = model->config.card;
  const kernels::DeviceStream stream = model->context->stream.get();
  const auto random = [&](std::int64_t rows, std::int64_t columns) {
    DeviceBuffer out(rows * columns * model->element(), "the model's weights");
    const float deviation = 0.6f / std::sqrt(static_cast<float>(columns));
    kernels::fill_normal_cuda(model->dtype(), out.as(), rows * columns, deviation, seed++, stream);
    return out;
  };
  const auto ones = [&](std::int64_t n) {
    return upload(std::vector<float>(static_cast<std::size_t>(n), 1.0f), stream);
  };
  const std::int64_t q_rows = card.query_heads * card.head_dim, k_rows = card.kv_heads * card.head_dim;
  model->embedding = random(card.vocab, card.hidden);
  if (!config.tied_embeddings) model->own_head = random(card.vocab, card.hidden);
  model->final_norm = ones(card.hidden);
  for (std::int64_t l = 0; l < card.layers; ++l) {
    CudaLayer layer;
    layer.attention_norm = ones(card.hidden);
    layer.mlp_norm = ones(card.hidden);
    if (config.qk_norm) layer.q_norm = ones(card.head_dim), layer.k_norm = ones(card.head_dim);
    layer.qkv = random(q_rows + 2 * k_rows, card.hidden);
    layer.output = random(card.hidden, q_rows);
    layer.gate_up = random(2 * card.intermediate, card.hidden);
    layer.down = random(card.hidden, card.intermediate);
    model->layers.push_back(std::move(layer));
  }
  kernels::synchronize(stream);
  return model;
}

const ModelConfig& model_config(const CudaModel& model) { return model.config; }

kernels::DeviceStream model_stream(const CudaModel& model) { return model.context->stream.get(); }

Array<float, 2> output_projection(const CudaModel& model, std::int64_t layer) {
  const ModelCard& card = model.config.card;
  Array<float, 2> out({card.hidden, card.query_heads * card.head_dim});
  const std::lock_guard lock(model.context->mutex);
  kernels::use_device(model.device);
  std::vector<std::byte> bytes(static_cast<std::size_t>(out.size() * model.element()));
  kernels::copy_to_host(bytes.data(), model.layers[static_cast<std::size_t>(layer)].output.as(),
                        static_cast<std::int64_t>(bytes.size()), model.context->stream.get());
  kernels::synchronize(model.context->stream.get());
  to_f32(model.dtype(), bytes.data(), out.size(), out.data());
  return out;
}

void prepare_rope(const CudaModel& model, std::int64_t announced_length) {
  CudaContext& context = *model.context;
  if (context.rope_length == announced_length) return;
  const std::vector<RopeSet> sets =
      announced_length > 0 ? resolve_rope(model.config, announced_length) : model.config.card.rope;
  context.inv_freq.clear();
  context.rope_factor.clear();
  context.rope_half.clear();
  for (const RopeSet& set : sets) {
    context.inv_freq.push_back(upload(set.inv_freq, context.stream.get()));
    context.rope_factor.push_back(set.attention_factor);
    context.rope_half.push_back(static_cast<std::int64_t>(set.inv_freq.size()));
  }
  context.tables.resize(sets.size());
  context.rope_length = announced_length;
  ++context.rope_generation;
}

}  // namespace kvgrind::sim
