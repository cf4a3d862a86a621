#include "kernels/isa/scratch.h"

#include <bit>
#include <vector>

namespace kvgrind::kernels {
namespace {

struct Block {
  AlignedBytes memory;
  std::int64_t size = 0;
};

struct Kept {
  std::vector<Block> blocks;
  std::int64_t size = 0;
};

Kept& kept() {
  thread_local Kept of_this_thread;
  return of_this_thread;
}

// Powers of two up to 1 MiB, whole MiB above: sizes that differ a little share a block.
std::int64_t rounded(std::int64_t size) {
  constexpr std::int64_t mib = 1 << 20;
  if (size >= mib) return (size + mib - 1) / mib * mib;
  return static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(size > 4096 ? size : 4096)));
}

Block take(std::int64_t size) {
  Kept& own = kept();
  std::size_t best = own.blocks.size();
  for (std::size_t i = 0; i < own.blocks.size(); ++i)
    if (own.blocks[i].size >= size && (best == own.blocks.size() || own.blocks[i].size < own.blocks[best].size))
      best = i;
  if (best == own.blocks.size()) return {aligned_bytes(size), size};
  Block block = std::move(own.blocks[best]);
  own.blocks[best] = std::move(own.blocks.back());
  own.blocks.pop_back();
  own.size -= block.size;
  return block;
}

void give_back(Block block) {
  Kept& own = kept();
  if (own.size + block.size > kept_scratch_bytes) return;
  own.size += block.size;
  own.blocks.push_back(std::move(block));
}

}  // namespace

Scratch::Scratch(std::int64_t size_bytes) { grow(size_bytes); }

Scratch::~Scratch() {
  if (memory_) give_back({AlignedBytes(memory_), size_});
}

std::byte* Scratch::grow(std::int64_t size_bytes) {
  if (memory_ && size_bytes <= size_) return memory_;
  if (memory_) give_back({AlignedBytes(memory_), size_});
  memory_ = nullptr;
  Block block = take(rounded(size_bytes));
  size_ = block.size;
  memory_ = block.memory.release();
  return memory_;
}

}  // namespace kvgrind::kernels
