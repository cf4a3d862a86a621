#include "kernels/linear/linear.h"

#include <algorithm>
#include <cassert>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "core/array.h"
#include "core/error.h"
#include "core/parallel.h"
#include "kernels/isa/isa.h"
#include "kernels/isa/scratch.h"

namespace kvgrind::kernels {
namespace {

std::string shape_text(const Tensor& tensor) {
  std::string text = "[";
  for (std::size_t i = 0; i < tensor.shape.size(); ++i) text += (i ? ", " : "") + std::to_string(tensor.shape[i]);
  return text + "]";
}

void check_part(const LinearPart& part, std::int64_t inputs) {
  if (part.weight->shape.size() != 2 || part.weight->shape[1] != inputs)
    throw Error(Category::damaged, {.doing = "packing weights",
                                    .found = "weight of shape " + shape_text(*part.weight),
                                    .expected = "[outputs, " + std::to_string(inputs) + "]"});
  if (part.bias && (part.bias->shape.size() != 1 || part.bias->shape[0] != part.weight->shape[0]))
    throw Error(Category::damaged, {.doing = "packing weights",
                                    .found = "bias of shape " + shape_text(*part.bias),
                                    .expected = "[" + std::to_string(part.weight->shape[0]) + "]"});
}

}  // namespace

// Panels of panel_width outputs, [panel][K][panel_width], in the weights' own type (in fp32 where parts differ): a
// 16-bit model stays at 16 bits in memory and is widened on the way to the registers.
struct PackedLinear::Data {
  std::int64_t inputs = 0, outputs = 0;
  DType dtype = DType::f32;
  AlignedBytes panels;
  std::vector<float> bias;  // [panels · panel_width]
  std::int64_t panel_count() const { return (outputs + panel_width - 1) / panel_width; }
};

std::int64_t PackedLinear::inputs() const { return data_->inputs; }
std::int64_t PackedLinear::outputs() const { return data_->outputs; }

PackedLinear pack_linear(const std::vector<LinearPart>& parts) {
  assert(!parts.empty());
  auto data = std::make_shared<PackedLinear::Data>();
  const Tensor& first = *parts[0].weight;
  data->inputs = first.shape.size() == 2 ? first.shape[1] : -1;
  data->dtype = first.dtype;
  for (const LinearPart& part : parts) {
    check_part(part, data->inputs);
    data->outputs += part.weight->shape[0];
    if (part.weight->dtype != data->dtype) data->dtype = DType::f32;
  }
  const std::int64_t bytes = size_bytes(data->dtype);
  const std::int64_t total = data->panel_count() * data->inputs * panel_width * bytes;
  data->panels = aligned_bytes(total);
  data->bias.assign(static_cast<std::size_t>(data->panel_count() * panel_width), 0.0f);

  std::vector<const std::byte*> rows(static_cast<std::size_t>(data->panel_count() * panel_width), nullptr);
  std::vector<DType> types(rows.size(), data->dtype);
  std::size_t output = 0;
  for (const LinearPart& part : parts) {
    const Tensor& weight = *part.weight;
    if (part.bias) to_f32(part.bias->dtype, part.bias->data, weight.shape[0], data->bias.data() + output);
    for (std::int64_t n = 0; n < weight.shape[0]; ++n, ++output) {
      rows[output] = weight.data + n * data->inputs * size_bytes(weight.dtype);
      types[output] = weight.dtype;
    }
  }
  // A panel is a transposition; pieces of 64 inputs keep both sides in the first-level cache.
  parallel_for(data->panel_count(), [&](std::int64_t panel) {
    std::byte* to = data->panels.get() + panel * data->inputs * panel_width * bytes;
    std::byte piece[64 * sizeof(float)];
    for (std::int64_t begin = 0; begin < data->inputs; begin += 64) {
      const std::int64_t depth = std::min<std::int64_t>(64, data->inputs - begin);
      for (std::int64_t c = 0; c < panel_width; ++c) {
        const auto row = static_cast<std::size_t>(panel * panel_width + c);
        const std::byte* from = rows[row];
        if (!from)
          std::memset(piece, 0, sizeof piece);
        else if (types[row] == data->dtype)
          std::memcpy(piece, from + begin * bytes, static_cast<std::size_t>(depth * bytes));
        else
          to_f32(types[row], from + begin * size_bytes(types[row]), depth, reinterpret_cast<float*>(piece));
        std::byte* column = to + (begin * panel_width + c) * bytes;
        for (std::int64_t k = 0; k < depth; ++k)
          std::memcpy(column + k * panel_width * bytes, piece + k * bytes, bytes == 2 ? 2 : 4);
      }
    }
  });
  return PackedLinear(std::move(data));
}

namespace {

constexpr std::int64_t chunk_rows = 560;       // rows packed at once
constexpr std::int64_t serial_work = 1 << 18;  // multiply-adds that are not worth a second thread
constexpr std::int64_t least_task_work = 1 << 17;

// Row blocks of nearly equal height: 64 rows at 14 a block are 5 blocks of 12 or 13, not four of 14 and one of 8.
std::vector<LinearBlock> blocks_of(std::int64_t rows, std::int64_t most) {
  const std::int64_t count = (rows + most - 1) / most;
  std::vector<LinearBlock> blocks(static_cast<std::size_t>(count));
  for (std::int64_t b = 0; b < count; ++b)
    blocks[static_cast<std::size_t>(b)].rows = rows * (b + 1) / count - rows * b / count;
  return blocks;
}

// [rows][K] → [K][rows], in pieces that keep both sides in the first-level cache.
void pack_rows(View<const float, 2> x, float* to) {
  const std::int64_t rows = x.extent(0), inputs = x.extent(1), stride = x.stride(1);
  for (std::int64_t begin = 0; begin < inputs; begin += 64) {
    const std::int64_t end = std::min(inputs, begin + 64);
    for (std::int64_t r = 0; r < rows; ++r) {
      const float* from = x.data() + r * x.stride(0);
      for (std::int64_t k = begin; k < end; ++k) to[k * rows + r] = from[k * stride];
    }
  }
}

void linear_chunk(const PackedLinear::Data& data, View<const float, 2> x, View<float, 2> y) {
  const KernelTable& kernels = current_kernels();
  const std::int64_t rows = x.extent(0), work = rows * data.inputs * data.outputs;
  std::vector<LinearBlock> blocks = blocks_of(rows, kernels.linear_rows);
  const auto n_blocks = static_cast<std::int64_t>(blocks.size());
  const bool serial = work < serial_work;

  const bool packs = rows > 1 || x.stride(1) != 1;
  Scratch memory;
  float* packed = nullptr;
  if (packs) {
    memory.grow(rows * data.inputs * 4);
    packed = memory.as<float>();
  }
  std::int64_t first_row = 0;
  for (LinearBlock& block : blocks) {
    block.x = packs ? packed + first_row * data.inputs : x.data();
    block.y = y.data() + first_row * y.stride(0);
    block.y_stride = y.stride(0);
    first_row += block.rows;
  }
  const auto pack_block = [&](std::int64_t b) {
    const LinearBlock& block = blocks[static_cast<std::size_t>(b)];
    const std::int64_t row = (block.y - y.data()) / std::max<std::int64_t>(1, y.stride(0));
    pack_rows(x.slice(row, block.rows), const_cast<float*>(block.x));
  };
  if (packs) {
    if (rows * data.inputs < serial_work) {
      for (std::int64_t b = 0; b < n_blocks; ++b) pack_block(b);
    } else {
      parallel_for(n_blocks, pack_block);
    }
  }

  const auto run = [&](std::int64_t panel_begin, std::int64_t panel_end, std::int64_t block_begin,
                       std::int64_t block_end) {
    alignas(64) float scratch[linear_scratch];
    LinearTask task;
    task.panels = data.panels.get();
    task.bias = data.bias.data();
    task.inputs = data.inputs;
    task.outputs = data.outputs;
    task.panel_begin = panel_begin;
    task.panel_end = panel_end;
    task.blocks = blocks.data() + block_begin;
    task.n_blocks = block_end - block_begin;
    task.scratch = scratch;
    kernels.linear[static_cast<int>(data.dtype)](task);
  };
  const std::int64_t panels = data.panel_count();
  if (serial || thread_count() == 1) return run(0, panels, 0, n_blocks);

  // Tasks over columns first (each weight is then read once); over rows as well where columns alone are too few.
  const std::int64_t wanted = std::clamp<std::int64_t>(work / least_task_work, 1, 4 * thread_count());
  std::int64_t task_panels = std::max<std::int64_t>(1, panels / wanted);
  if (rows == 1) task_panels = (task_panels + 3) / 4 * 4;  // the one-row kernel takes four panels at once
  const std::int64_t column_tasks = (panels + task_panels - 1) / task_panels;
  const std::int64_t row_tasks = std::clamp<std::int64_t>(wanted / column_tasks, 1, n_blocks);
  parallel_for(column_tasks * row_tasks, [&](std::int64_t i) {
    const std::int64_t column = i / row_tasks, row = i % row_tasks;
    run(column * task_panels, std::min(panels, (column + 1) * task_panels), n_blocks * row / row_tasks,
        n_blocks * (row + 1) / row_tasks);
  });
}

}  // namespace

void linear(const PackedLinear& weights, View<const float, 2> x, View<float, 2> y) {
  const PackedLinear::Data& data = weights.data();
  assert(x.extent(1) == data.inputs && y.extent(1) == data.outputs && x.extent(0) == y.extent(0));
  const std::int64_t rows = x.extent(0), chunks = (rows + chunk_rows - 1) / chunk_rows;
  for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
    const std::int64_t begin = rows * chunk / chunks, count = rows * (chunk + 1) / chunks - begin;
    const View<float, 2> out = y.slice(begin, count);
    if (out.stride(1) == 1 && (count == 1 || out.stride(0) > 0)) {
      linear_chunk(data, x.slice(begin, count), out);
      continue;
    }
    Array<float, 2> dense({count, data.outputs});
    linear_chunk(data, x.slice(begin, count), dense.view());
    for (std::int64_t r = 0; r < count; ++r)
      for (std::int64_t n = 0; n < data.outputs; ++n) out(r, n) = dense(r, n);
  }
}

}  // namespace kvgrind::kernels
