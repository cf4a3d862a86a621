// A build without CUDA: no device is there, and everything that would need one says so.
#include <fmt/format.h>

#include "core/error.h"
#include "kernels/device/device.h"

namespace kvgrind::kernels {
namespace {

[[noreturn]] void refuse(const std::string& on = "a CUDA device") {
  throw Error(Category::unavailable,
              {.doing = "choosing a device",
               .on = on,
               .found = "a program built without CUDA",
               .next = "use --device cpu, or build with the CUDA Toolkit (cmake -DKVGRIND_CUDA=ON)"});
}

}  // namespace

bool built_with_cuda() { return false; }
int device_count() { return 0; }
DeviceInfo device_info(int device) { refuse(fmt::format("cuda:{}", device)); }
void use_device(int device) { refuse(fmt::format("cuda:{}", device)); }
int current_device() { return 0; }
void pin_memory(void*, std::int64_t, std::string_view) { refuse(); }
void unpin_memory(void*) noexcept {}

// Nothing below is ever reached with something to close.
int close_stream(::CUstream_st*) noexcept { return 0; }
int close_event(::CUevent_st*) noexcept { return 0; }
int close_graph(::CUgraphExec_st*) noexcept { return 0; }
int free_device(void*) noexcept { return 0; }
int free_pinned(void*) noexcept { return 0; }

StreamHandle make_stream() { refuse(); }
EventHandle make_event(bool) { refuse(); }
void record_event(const EventHandle&, DeviceStream) { refuse(); }
void wait_event(DeviceStream, const EventHandle&) { refuse(); }
void synchronize(DeviceStream) { refuse(); }
void synchronize(const EventHandle&) { refuse(); }
bool event_done(const EventHandle&) { refuse(); }
double elapsed_ms(const EventHandle&, const EventHandle&) { refuse(); }
void begin_capture(DeviceStream) { refuse(); }
GraphHandle end_capture(DeviceStream) { refuse(); }
void abandon_capture(DeviceStream) noexcept {}
void launch_graph(const GraphHandle&, DeviceStream) { refuse(); }
DeviceBuffer::DeviceBuffer(std::int64_t, std::string_view) { refuse(); }
PinnedBuffer::PinnedBuffer(std::int64_t, std::string_view) { refuse(); }
void copy_to_device(void*, const void*, std::int64_t, DeviceStream) { refuse(); }
void copy_to_host(void*, const void*, std::int64_t, DeviceStream) { refuse(); }
void copy_on_device(void*, const void*, std::int64_t, DeviceStream) { refuse(); }
void copy_rows_to_host(void*, std::int64_t, const void*, std::int64_t, std::int64_t, std::int64_t, DeviceStream) {
  refuse();
}
void copy_rows_on_device(void*, std::int64_t, const void*, std::int64_t, std::int64_t, std::int64_t, DeviceStream) {
  refuse();
}
void gather_rows_on_device(void*, const void*, std::int64_t, const std::int32_t*, std::int64_t, DeviceStream) {
  refuse();
}
void fill_bytes(void*, int, std::int64_t, DeviceStream) { refuse(); }

}  // namespace kvgrind::kernels
