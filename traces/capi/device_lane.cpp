#include "traces/capi/device_lane.h"

namespace kvgrind::traces {

DeviceLane::DeviceLane(int device) : device_(device) {
  const kernels::DeviceGuard guard(device);
  copy_ = kernels::make_stream();
  for (Slot& slot : slots_) slot.ready = kernels::make_event(), slot.free = kernels::make_event();
}

std::byte* DeviceLane::take(std::int64_t size_bytes, kernels::DeviceStream stream) {
  taken_ = (taken_ + 1) % slots_.size();
  Slot& slot = slots_[taken_];
  if (slot.bytes.size_bytes() < size_bytes) {
    slot.bytes = {};  // freeing waits for the device
    slot.bytes = kernels::DeviceBuffer(size_bytes, "the recording's ring");
  } else if (slot.used) {
    kernels::wait_event(stream, slot.free);
  }
  slot.used = true;
  return slot.bytes.as<std::byte>();
}

void DeviceLane::send(std::byte* host, std::int64_t size_bytes, kernels::DeviceStream stream) {
  Slot& slot = slots_[taken_];
  kernels::record_event(slot.ready, stream);
  kernels::wait_event(copy_.get(), slot.ready);
  kernels::copy_to_host(host, slot.bytes.as(), size_bytes, copy_.get());
  kernels::record_event(slot.free, copy_.get());
}

const std::int32_t* DeviceLane::indices(const std::vector<std::int32_t>& rows, std::int64_t pass,
                                        kernels::DeviceStream stream) {
  if (pass == indices_pass_) return indices_.as<std::int32_t>();
  const auto bytes = static_cast<std::int64_t>(rows.size() * sizeof(std::int32_t));
  if (indices_.size_bytes() < bytes) {
    indices_ = {};
    indices_ = kernels::DeviceBuffer(bytes, "the recording's ring");
  }
  indices_pass_ = pass;
  kernels::copy_to_device(indices_.as(), rows.data(), bytes, stream);
  return indices_.as<std::int32_t>();
}

}  // namespace kvgrind::traces
