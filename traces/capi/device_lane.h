// What a device needs to hand its rows to the spool without stopping: a copy stream, and a few slots of device memory
// into which rows are packed on the run's own stream, so that the run may overwrite them at once.
#pragma once
#include <array>
#include <cstdint>
#include <vector>

#include "kernels/capture/pack.h"
#include "kernels/device/device.h"

namespace kvgrind::traces {

class DeviceLane {
 public:
  explicit DeviceLane(int device);

  int device() const { return device_; }
  kernels::DeviceStream copy_stream() const { return copy_.get(); }
  // A slot of `size_bytes`; work queued on `stream` from now on waits until its last contents were copied.
  std::byte* take(std::int64_t size_bytes, kernels::DeviceStream stream);
  // What was packed into the taken slot on `stream` goes to `host`, on the copy stream.
  void send(std::byte* host, std::int64_t size_bytes, kernels::DeviceStream stream);
  // Row indices of pass number `pass` on the device, valid for work queued on `stream` until those of another pass.
  const std::int32_t* indices(const std::vector<std::int32_t>& rows, std::int64_t pass, kernels::DeviceStream stream);

 private:
  struct Slot {
    kernels::DeviceBuffer bytes;
    kernels::EventHandle ready, free;
    bool used = false;
  };
  int device_;
  kernels::StreamHandle copy_;
  std::array<Slot, 4> slots_;
  std::size_t taken_ = 0;
  kernels::DeviceBuffer indices_;
  std::int64_t indices_pass_ = -1;
};

}  // namespace kvgrind::traces
