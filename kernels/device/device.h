// CUDA devices, streams, buffers and graphs behind names of our own, so that callers need no CUDA header.
// Every failing CUDA call throws Error(unavailable) that says what was being done; destructors never throw.
// In a build without CUDA no device is there, and asking for one throws.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

#include "core/handle.h"

struct CUstream_st;
struct CUevent_st;
struct CUgraphExec_st;

namespace kvgrind::kernels {

struct DeviceInfo {
  std::string name;
  std::int64_t memory_bytes = 0, free_bytes = 0;
  int major = 0, minor = 0;  // compute capability
  int multiprocessors = 0;
  std::int64_t l2_bytes = 0;
};

bool built_with_cuda();
int device_count();                  // 0 when there is no driver, no device, or no CUDA in this build; never throws
DeviceInfo device_info(int device);  // Error(unavailable) when it is not there
void use_device(int device);         // for the calling thread
int current_device();                // of the calling thread; 0 without CUDA

// Another device for the calling thread, for a while. A negative device is the host: then no driver is asked.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    if (device < 0) return;
    before_ = current_device();
    if (device != before_) use_device(device);
    changed_ = device != before_;
  }
  ~DeviceGuard() {
    if (!changed_) return;
    try {
      use_device(before_);
    } catch (...) {
    }
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int before_ = 0;
  bool changed_ = false;
};

using DeviceStream = ::CUstream_st*;
int close_stream(::CUstream_st*) noexcept;
int close_event(::CUevent_st*) noexcept;
int close_graph(::CUgraphExec_st*) noexcept;
int free_device(void*) noexcept;
int free_pinned(void*) noexcept;

using StreamHandle = Handle<::CUstream_st*, close_stream, nullptr>;
using EventHandle = Handle<::CUevent_st*, close_event, nullptr>;
using GraphHandle = Handle<::CUgraphExec_st*, close_graph, nullptr>;

StreamHandle make_stream();  // non-blocking: never waits for the default stream
EventHandle make_event(bool timed = false);
void record_event(const EventHandle& event, DeviceStream stream);
void wait_event(DeviceStream stream, const EventHandle& event);  // work queued later on `stream` waits
void synchronize(DeviceStream stream);
void synchronize(const EventHandle& event);
bool event_done(const EventHandle& event);
double elapsed_ms(const EventHandle& from, const EventHandle& to);  // both timed and done

// Everything launched on `stream` between the two calls becomes one graph. No allocation, no copy to pageable memory
// and no synchronisation in between. If something throws in between, abandon_capture makes the stream usable again.
void begin_capture(DeviceStream stream);
GraphHandle end_capture(DeviceStream stream);
void abandon_capture(DeviceStream stream) noexcept;
void launch_graph(const GraphHandle& graph, DeviceStream stream);

// Device memory; `what` names it in the message when there is not enough.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  DeviceBuffer(std::int64_t size_bytes, std::string_view what);
  template <class T = void>
  T* as() const {
    return static_cast<T*>(data_.get());
  }
  std::int64_t size_bytes() const { return size_bytes_; }
  explicit operator bool() const { return static_cast<bool>(data_); }

 private:
  Handle<void*, free_device, nullptr> data_;
  std::int64_t size_bytes_ = 0;
};

// Page-locked host memory: copies to and from it run beside kernels.
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  PinnedBuffer(std::int64_t size_bytes, std::string_view what);
  template <class T = void>
  T* as() const {
    return static_cast<T*>(data_.get());
  }
  std::int64_t size_bytes() const { return size_bytes_; }
  explicit operator bool() const { return static_cast<bool>(data_); }

 private:
  Handle<void*, free_pinned, nullptr> data_;
  std::int64_t size_bytes_ = 0;
};

// Host memory of other origin (shared memory, say) becomes page-locked, and pageable again.
void pin_memory(void* memory, std::int64_t size_bytes, std::string_view what);
void unpin_memory(void* memory) noexcept;

// Asynchronous copies. From or to pageable memory they behave as the CUDA runtime says (staged, may block).
void copy_to_device(void* device, const void* host, std::int64_t size_bytes, DeviceStream stream);
void copy_to_host(void* host, const void* device, std::int64_t size_bytes, DeviceStream stream);
void copy_on_device(void* to, const void* from, std::int64_t size_bytes, DeviceStream stream);
// `rows` pieces of `row_bytes`, `from_pitch` and `to_pitch` bytes apart.
void copy_rows_to_host(void* host, std::int64_t to_pitch, const void* device, std::int64_t from_pitch,
                       std::int64_t row_bytes, std::int64_t rows, DeviceStream stream);
void copy_rows_on_device(void* to, std::int64_t to_pitch, const void* from, std::int64_t from_pitch,
                         std::int64_t row_bytes, std::int64_t rows, DeviceStream stream);
// to[i] = from[index[i]], rows of `row_bytes` (a multiple of 4); index on the device.
void gather_rows_on_device(void* to, const void* from, std::int64_t row_bytes, const std::int32_t* index,
                           std::int64_t n, DeviceStream stream);
void fill_bytes(void* device, int value, std::int64_t size_bytes, DeviceStream stream);

}  // namespace kvgrind::kernels
