// Model weights as borrowed tensors: the runtime never sees a path. The owner of the bytes (a mapping) is kept alive
// by `storage`.
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/dtype.h"

namespace kvgrind {

struct Tensor {
  DType dtype = DType::f32;
  std::vector<std::int64_t> shape;  // Linear weights are [out, in]
  const std::byte* data = nullptr;  // row-major, any alignment
  std::int64_t elements() const {
    std::int64_t n = 1;
    for (const std::int64_t e : shape) n *= e;
    return n;
  }
};

struct Weights {
  std::map<std::string, Tensor> tensors;
  std::vector<std::shared_ptr<const void>> storage;
  std::string content_hash;  // 16 hex digits over names, types, shapes and bytes

  const Tensor* find(const std::string& name) const {
    const auto it = tensors.find(name);
    return it == tensors.end() ? nullptr : &it->second;
  }
};

}  // namespace kvgrind
