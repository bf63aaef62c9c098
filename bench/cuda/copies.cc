#include <sys/mman.h>

#include <cstring>
#include <string>
#include <vector>

#include "base/deadline.h"
#include "bench/cuda/bench_model.h"
#include "bench/cuda/check.h"
#include "bench/cuda/cuda_bench.h"

namespace airlock::bench {

namespace {

/// Shared memory of this process, as a ring segment is, touched once.
class Mapping {
 public:
  explicit Mapping(std::size_t size)
      : size_(size),
        data_(::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)) {
    if (data_ == MAP_FAILED) fail("mmap", std::strerror(errno));
    fill_random({data(), size}, DType::kBF16, 1);
  }
  ~Mapping() { ::munmap(data_, size_); }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  std::byte* data() const { return static_cast<std::byte*>(data_); }

 private:
  std::size_t size_;
  void* data_;
};

struct CopyTimes {
  std::vector<double> alone_ns;  // from the call to its completion, one copy at a time
  double in_a_row_ns = 0;        // the mean of copies queued one after the other
};

int calls_for(std::size_t bytes) { return bytes >= (std::size_t{16} << 20) ? 12 : 50; }

CopyTimes time_device_copy(std::byte* to, const std::byte* from, std::size_t bytes,
                           cudaMemcpyKind kind, const Stream& stream) {
  const auto copy = [&] {
    must(cudaMemcpyAsync(to, from, bytes, kind, stream.get()), "cudaMemcpyAsync");
  };
  for (int i = 0; i < 3; ++i) copy();
  stream.wait();
  CopyTimes times;
  const int calls = calls_for(bytes);
  for (int i = 0; i < calls; ++i) {
    const std::uint64_t start = now_ns();
    copy();
    stream.wait();
    times.alone_ns.push_back(static_cast<double>(now_ns() - start));
  }
  const std::uint64_t start = now_ns();
  for (int i = 0; i < calls; ++i) copy();
  stream.wait();
  times.in_a_row_ns = static_cast<double>(now_ns() - start) / calls;
  return times;
}

/// The plain copy loop that the others are held against: one thread, host to host.
CopyTimes time_memcpy(std::byte* to, const std::byte* from, std::size_t bytes) {
  CopyTimes times;
  const int calls = calls_for(bytes);
  for (int i = 0; i < calls + 3; ++i) {
    const std::uint64_t start = now_ns();
    std::memcpy(to, from, bytes);
    asm volatile("" : : "r"(to) : "memory");  // the copy counts as used
    if (i >= 3) times.alone_ns.push_back(static_cast<double>(now_ns() - start));
  }
  double sum = 0;
  for (const double ns : times.alone_ns) sum += ns;
  times.in_a_row_ns = sum / calls;
  return times;
}

std::string copy_record(const std::string& way, const std::string& memory, std::size_t bytes,
                        const CopyTimes& times) {
  Record record;
  record.text("kind", "copy").text("way", way).text("host_memory", memory).count("bytes", bytes);
  record.spread("ns", times.alone_ns);
  record.number("gb_per_s", static_cast<double>(bytes) / median_of(times.alone_ns));
  record.number("gb_per_s_in_a_row", static_cast<double>(bytes) / times.in_a_row_ns);
  return record.json();
}

}  // namespace

std::vector<std::string> run_copies(std::size_t largest_bytes) {
  std::vector<std::string> records;
  const Mapping pinned(largest_bytes);
  const Mapping plain(largest_bytes);
  const DeviceBuffer device(largest_bytes);
  const Stream stream;
  const cudaError_t registered =
      cudaHostRegister(pinned.data(), largest_bytes, cudaHostRegisterDefault);
  if (registered != cudaSuccess) {
    static_cast<void>(cudaGetLastError());
    records.push_back(Record()
                          .text("kind", "not_run")
                          .text("what", "pinned copies")
                          .text("why", std::string("cudaHostRegister: ") +
                                           cudaGetErrorString(registered) + " (see ulimit -l)")
                          .json());
  }
  for (std::size_t bytes = std::size_t{64} << 10; bytes <= largest_bytes; bytes *= 4) {
    for (const bool is_pinned : {true, false}) {
      if (is_pinned && registered != cudaSuccess) continue;
      std::byte* host = is_pinned ? pinned.data() : plain.data();
      const std::string memory = is_pinned ? "pinned" : "unpinned";
      records.push_back(copy_record(
          "to_device", memory, bytes,
          time_device_copy(device.data(), host, bytes, cudaMemcpyHostToDevice, stream)));
      records.push_back(copy_record(
          "from_device", memory, bytes,
          time_device_copy(host, device.data(), bytes, cudaMemcpyDeviceToHost, stream)));
    }
    records.push_back(
        copy_record("memcpy", "plain", bytes, time_memcpy(pinned.data(), plain.data(), bytes)));
  }
  if (registered == cudaSuccess) must(cudaHostUnregister(pinned.data()), "cudaHostUnregister");
  return records;
}

}  // namespace airlock::bench
