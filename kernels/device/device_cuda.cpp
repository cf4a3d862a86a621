#include <cuda_runtime.h>
#include <fmt/format.h>

#include "core/error.h"
#include "kernels/device/check_cuda.h"
#include "kernels/device/device.h"

namespace kvgrind::kernels {

void check_cuda(cudaError_t status, const char* doing, std::source_location where) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // a launch failure must not be reported twice
  const bool memory = status == cudaErrorMemoryAllocation;
  throw Error(Category::unavailable,
              {.doing = doing,
               .on = "the CUDA device",
               .found = fmt::format("{} ({})", cudaGetErrorString(status), cudaGetErrorName(status)),
               .expected = memory ? "enough free device memory" : "",
               .next = status == cudaErrorInsufficientDriver ? "update the NVIDIA driver, or use --device cpu"
                       : memory ? "use a shorter prompt, a smaller --chunk, or --device cpu"
                                : ""},
              where);
}

bool built_with_cuda() { return true; }

int device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    cudaGetLastError();
    return 0;
  }
  return count;
}

static void require_device(int device) {
  const int count = device_count();
  if (device >= 0 && device < count) return;
  throw Error(Category::unavailable,
              {.doing = "choosing a device",
               .on = fmt::format("cuda:{}", device),
               .found = count == 0 ? std::string("no CUDA device or driver") : fmt::format("{} CUDA devices", count),
               .expected = count == 0 ? std::string() : fmt::format("cuda:0 to cuda:{}", count - 1),
               .next = "use --device cpu"});
}

DeviceInfo device_info(int device) {
  require_device(device);
  cudaDeviceProp properties;
  check_cuda(cudaGetDeviceProperties(&properties, device), "reading device properties");
  int before = 0;
  check_cuda(cudaGetDevice(&before), "reading the current device");
  check_cuda(cudaSetDevice(device), "choosing a device");
  std::size_t free_bytes = 0, total_bytes = 0;
  check_cuda(cudaMemGetInfo(&free_bytes, &total_bytes), "reading free device memory");
  check_cuda(cudaSetDevice(before), "choosing a device");
  return {.name = properties.name,
          .memory_bytes = static_cast<std::int64_t>(total_bytes),
          .free_bytes = static_cast<std::int64_t>(free_bytes),
          .major = properties.major,
          .minor = properties.minor,
          .multiprocessors = properties.multiProcessorCount,
          .l2_bytes = properties.l2CacheSize};
}

int current_device() {
  int device = 0;
  check_cuda(cudaGetDevice(&device), "reading the current device");
  return device;
}

void use_device(int device) {
  require_device(device);
  check_cuda(cudaSetDevice(device), "choosing a device");
}

int close_stream(::CUstream_st* stream) noexcept { return cudaStreamDestroy(stream); }
int close_event(::CUevent_st* event) noexcept { return cudaEventDestroy(event); }
int close_graph(::CUgraphExec_st* graph) noexcept { return cudaGraphExecDestroy(graph); }
int free_device(void* data) noexcept { return cudaFree(data); }
int free_pinned(void* data) noexcept { return cudaFreeHost(data); }

StreamHandle make_stream() {
  cudaStream_t stream = nullptr;
  check_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "making a stream");
  return StreamHandle(stream);
}

EventHandle make_event(bool timed) {
  cudaEvent_t event = nullptr;
  check_cuda(cudaEventCreateWithFlags(&event, timed ? cudaEventDefault : cudaEventDisableTiming), "making an event");
  return EventHandle(event);
}

void record_event(const EventHandle& event, DeviceStream stream) {
  check_cuda(cudaEventRecord(event.get(), stream), "recording an event");
}
void wait_event(DeviceStream stream, const EventHandle& event) {
  check_cuda(cudaStreamWaitEvent(stream, event.get(), 0), "waiting for an event");
}
void synchronize(DeviceStream stream) { check_cuda(cudaStreamSynchronize(stream), "running work queued earlier"); }
void synchronize(const EventHandle& event) {
  check_cuda(cudaEventSynchronize(event.get()), "running work queued earlier");
}
bool event_done(const EventHandle& event) {
  const cudaError_t status = cudaEventQuery(event.get());
  if (status == cudaErrorNotReady) return false;
  check_cuda(status, "running work queued earlier");
  return true;
}
double elapsed_ms(const EventHandle& from, const EventHandle& to) {
  float ms = 0.0f;
  check_cuda(cudaEventElapsedTime(&ms, from.get(), to.get()), "reading elapsed time");
  return ms;
}

void begin_capture(DeviceStream stream) {
  check_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "beginning to capture a graph");
}
GraphHandle end_capture(DeviceStream stream) {
  cudaGraph_t graph = nullptr;
  check_cuda(cudaStreamEndCapture(stream, &graph), "capturing a graph");
  cudaGraphExec_t exec = nullptr;
  const cudaError_t status = cudaGraphInstantiate(&exec, graph, 0);
  cudaGraphDestroy(graph);
  check_cuda(status, "instantiating a graph");
  return GraphHandle(exec);
}
void abandon_capture(DeviceStream stream) noexcept {
  cudaGraph_t graph = nullptr;
  if (cudaStreamEndCapture(stream, &graph) == cudaSuccess && graph) cudaGraphDestroy(graph);
  cudaGetLastError();
}
void launch_graph(const GraphHandle& graph, DeviceStream stream) {
  check_cuda(cudaGraphLaunch(graph.get(), stream), "launching a graph");
}

static Error out_of_memory(std::string_view where, std::int64_t size_bytes, std::string_view what, cudaError_t status) {
  std::size_t free_bytes = 0, total_bytes = 0;
  if (cudaMemGetInfo(&free_bytes, &total_bytes) != cudaSuccess) free_bytes = total_bytes = 0;
  cudaGetLastError();
  return Error(
      Category::unavailable,
      {.doing = fmt::format("allocating {}", where),
       .on = fmt::format("{} ({:.1f} MiB)", what, static_cast<double>(size_bytes) / (1 << 20)),
       .found = fmt::format("{}; the device has {:.1f} of {:.1f} MiB free", cudaGetErrorString(status),
                            static_cast<double>(free_bytes) / (1 << 20), static_cast<double>(total_bytes) / (1 << 20)),
       .expected = "that much in one piece",
       .next = "use a shorter prompt, a smaller --chunk, or --device cpu"});
}

DeviceBuffer::DeviceBuffer(std::int64_t size_bytes, std::string_view what) : size_bytes_(size_bytes) {
  if (size_bytes == 0) return;
  void* data = nullptr;
  const cudaError_t status = cudaMalloc(&data, static_cast<std::size_t>(size_bytes));
  if (status != cudaSuccess) throw out_of_memory("device memory", size_bytes, what, status);
  data_.reset(data);
}

PinnedBuffer::PinnedBuffer(std::int64_t size_bytes, std::string_view what) : size_bytes_(size_bytes) {
  if (size_bytes == 0) return;
  void* data = nullptr;
  const cudaError_t status = cudaHostAlloc(&data, static_cast<std::size_t>(size_bytes), cudaHostAllocDefault);
  if (status != cudaSuccess) throw out_of_memory("page-locked host memory", size_bytes, what, status);
  data_.reset(data);
}

void pin_memory(void* memory, std::int64_t size_bytes, std::string_view what) {
  const cudaError_t status = cudaHostRegister(memory, static_cast<std::size_t>(size_bytes), cudaHostRegisterPortable);
  if (status != cudaSuccess) throw out_of_memory("page-locked host memory", size_bytes, what, status);
}
void unpin_memory(void* memory) noexcept {
  if (cudaHostUnregister(memory) != cudaSuccess) cudaGetLastError();
}

static void copy(void* to, const void* from, std::int64_t size_bytes, cudaMemcpyKind kind, DeviceStream stream) {
  if (size_bytes == 0) return;
  check_cuda(cudaMemcpyAsync(to, from, static_cast<std::size_t>(size_bytes), kind, stream), "copying");
}
void copy_to_device(void* device, const void* host, std::int64_t size_bytes, DeviceStream stream) {
  copy(device, host, size_bytes, cudaMemcpyHostToDevice, stream);
}
void copy_to_host(void* host, const void* device, std::int64_t size_bytes, DeviceStream stream) {
  copy(host, device, size_bytes, cudaMemcpyDeviceToHost, stream);
}
void copy_on_device(void* to, const void* from, std::int64_t size_bytes, DeviceStream stream) {
  copy(to, from, size_bytes, cudaMemcpyDeviceToDevice, stream);
}

static void copy_rows(void* to, std::int64_t to_pitch, const void* from, std::int64_t from_pitch,
                      std::int64_t row_bytes, std::int64_t rows, cudaMemcpyKind kind, DeviceStream stream) {
  if (rows == 0 || row_bytes == 0) return;
  check_cuda(cudaMemcpy2DAsync(to, static_cast<std::size_t>(to_pitch), from, static_cast<std::size_t>(from_pitch),
                               static_cast<std::size_t>(row_bytes), static_cast<std::size_t>(rows), kind, stream),
             "copying rows");
}
void copy_rows_to_host(void* host, std::int64_t to_pitch, const void* device, std::int64_t from_pitch,
                       std::int64_t row_bytes, std::int64_t rows, DeviceStream stream) {
  copy_rows(host, to_pitch, device, from_pitch, row_bytes, rows, cudaMemcpyDeviceToHost, stream);
}
void copy_rows_on_device(void* to, std::int64_t to_pitch, const void* from, std::int64_t from_pitch,
                         std::int64_t row_bytes, std::int64_t rows, DeviceStream stream) {
  copy_rows(to, to_pitch, from, from_pitch, row_bytes, rows, cudaMemcpyDeviceToDevice, stream);
}
void fill_bytes(void* device, int value, std::int64_t size_bytes, DeviceStream stream) {
  if (size_bytes == 0) return;
  check_cuda(cudaMemsetAsync(device, value, static_cast<std::size_t>(size_bytes), stream), "filling memory");
}

}  // namespace kvgrind::kernels
