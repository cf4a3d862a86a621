#include <cstdint>

#include "kernels/capture/pack.h"
#include "kernels/device/check_cuda.h"

namespace kvgrind::kernels {
namespace {

template <class Word>
__global__ void pack_kernel(Word* to, PackRows rows, std::int64_t words) {
  const std::int64_t total = rows.n * rows.heads * words;
  for (std::int64_t at = blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x; at < total;
       at += std::int64_t{gridDim.x} * blockDim.x) {
    const std::int64_t w = at % words, place = at / words;
    const std::int64_t h = rows.head_major ? place / rows.n : place % rows.heads;
    const std::int64_t i = rows.head_major ? place % rows.n : place / rows.heads;
    const std::int64_t row = rows.index ? rows.index[i] : i;
    to[at] = reinterpret_cast<const Word*>(static_cast<const char*>(rows.from) + row * rows.row_stride +
                                           h * rows.head_stride)[w];
  }
}

template <class Word>
void launch(void* to, const PackRows& rows, DeviceStream stream) {
  const std::int64_t words = rows.row_bytes / static_cast<std::int64_t>(sizeof(Word));
  const std::int64_t blocks = (rows.n * rows.heads * words + 255) / 256;
  pack_kernel<Word>
      <<<static_cast<unsigned>(blocks < 4096 ? blocks : 4096), 256, 0, stream>>>(static_cast<Word*>(to), rows, words);
  check_launch("packing rows");
}

}  // namespace

void pack_rows_on_device(void* to, const PackRows& rows, DeviceStream stream) {
  if (rows.n == 0 || rows.heads == 0 || rows.row_bytes == 0) return;
  const std::uint64_t all = reinterpret_cast<std::uintptr_t>(to) | reinterpret_cast<std::uintptr_t>(rows.from) |
                            static_cast<std::uint64_t>(rows.row_stride) | static_cast<std::uint64_t>(rows.head_stride) |
                            static_cast<std::uint64_t>(rows.row_bytes);
  if (all % 16 == 0)
    launch<uint4>(to, rows, stream);
  else if (all % 4 == 0)
    launch<std::uint32_t>(to, rows, stream);
  else
    launch<std::uint16_t>(to, rows, stream);
}

}  // namespace kvgrind::kernels
