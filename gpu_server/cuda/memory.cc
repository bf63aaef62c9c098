#include "gpu_server/cuda/memory.h"

#include <fmt/format.h>
#include <string.h>  // explicit_bzero

#include <algorithm>
#include <bit>
#include <map>
#include <mutex>

namespace airlock::cuda {

namespace {

// 4 MiB take well under a millisecond, but other sessions' gigabytes may be queued before them.
constexpr std::chrono::seconds kPieceTimeout{60};

double mib(std::size_t bytes) { return static_cast<double>(bytes) / 1048576.0; }

}  // namespace

Result<DeviceMemory> allocate(Device& device, std::size_t bytes, std::string_view what) {
  void* data = nullptr;
  RETURN_IF_ERROR(device.check(cudaMalloc(&data, bytes),
                               fmt::format("allocate {:.1f} MiB for {}", mib(bytes), what)));
  return DeviceMemory(data, {&device});
}

Status GrowingBuffer::reserve(std::size_t bytes, cudaStream_t stream) {
  if (bytes <= capacity_) return {};
  RETURN_IF_ERROR(release(stream));
  // By eighths of a power of two: a slightly longer prompt finds room.
  const std::size_t step = std::max(std::size_t{1} << 16, std::bit_floor(bytes) / 8);
  const std::size_t wanted = (bytes + step - 1) / step * step;
  void* data = nullptr;
  RETURN_IF_ERROR(device_.check(cudaMallocAsync(&data, wanted, stream),
                                fmt::format("allocate {:.1f} MiB for an op", mib(wanted))));
  data_ = static_cast<std::byte*>(data);
  capacity_ = wanted;
  return {};
}

Status GrowingBuffer::release(cudaStream_t stream) {
  std::byte* data = std::exchange(data_, nullptr);
  capacity_ = 0;
  if (data == nullptr || device_.lost()) return {};
  return device_.check(cudaFreeAsync(data, stream), "free an op's memory");
}

struct Registration::Pinned {
  Pinned(Device& first, std::span<std::byte> range)
      : bytes(range.size()), handle(range.data(), {&first}), devices{first.shared_from_this()} {}
  Pinned(const Pinned&) = delete;
  Pinned& operator=(const Pinned&) = delete;
  ~Pinned() {
    // A lost device may still be at work there: nothing of it is taken away.
    const bool lost = std::ranges::any_of(devices, [](const auto& each) { return each->lost(); });
    if (lost || !devices.front()->use().ok()) (void)handle.release();
    handle.reset();
  }

  const std::size_t bytes;
  Handle<void*, cudaHostUnregister> handle;
  std::vector<std::shared_ptr<Device>> devices;  // that copy there; guarded by make()'s mutex
};

Result<Registration> Registration::make(Device& device, std::span<std::byte> memory) {
  static std::mutex mutex;
  static std::map<std::byte*, std::weak_ptr<Pinned>> all;  // guarded by mutex
  const std::lock_guard lock(mutex);
  Registration made;
  std::erase_if(all, [](const auto& entry) { return entry.second.expired(); });
  if (const auto found = all.find(memory.data()); found != all.end()) {
    const auto pinned = found->second.lock();
    if (pinned != nullptr && pinned->bytes == memory.size()) {
      pinned->devices.push_back(device.shared_from_this());
      made.pinned_ = pinned;
      made.memory_ = memory;
      return made;
    }
  }
  const Status status =
      device.check(cudaHostRegister(memory.data(), memory.size(), cudaHostRegisterPortable),
                   fmt::format("pin {:.1f} MiB of host memory", mib(memory.size())));
  if (status.ok()) {
    made.pinned_ = std::make_shared<Pinned>(device, memory);
    made.memory_ = memory;
    all[memory.data()] = made.pinned_;
  } else if (device.lost()) {
    return status;
  }
  return made;
}

Status Staging::prepare() {
  if (prepared_) return {};
  for (Piece& piece : pieces_) {
    if (piece.copied.get() != nullptr) continue;  // an earlier try made it
    Piece made;
    ASSIGN_OR_RETURN(made.memory, PageBuffer::allocate(piece_bytes_));
    ASSIGN_OR_RETURN(made.registration,
                     Registration::make(device_, {made.memory.data(), made.memory.bytes()}));
    ASSIGN_OR_RETURN(made.copied, make_event(device_));
    piece = std::move(made);  // into an empty one: nothing is unmapped before it is unpinned
  }
  prepared_ = true;
  return {};
}

Result<Staging::Piece*> Staging::next_free() {
  Piece& next = piece(turn_++);
  if (std::exchange(next.busy, false)) {
    RETURN_IF_ERROR(device_.wait_until_over(cudaEventQuery, next.copied.get(), "a copy",
                                            Deadline::after(kPieceTimeout)));
  }
  wipe(next);
  return &next;
}

Result<Staging::Piece*> Staging::next_for_secret(std::size_t bytes, const void* keeper) {
  ASSIGN_OR_RETURN(Piece * next, next_free());
  next->secret_bytes = bytes;
  next->keeper = keeper;
  return next;
}

void Staging::wipe(const void* keeper) {
  for (Piece& piece : pieces_) {
    if (piece.keeper == keeper) wipe(piece);
  }
}

void Staging::wipe(Piece& piece) {
  if (piece.secret_bytes != 0) ::explicit_bzero(piece.memory.data(), piece.secret_bytes);
  piece.secret_bytes = 0;
  piece.keeper = nullptr;
}

Status Staging::send(Piece& piece, std::byte* to, std::size_t bytes, cudaStream_t stream,
                     std::string_view what) {
  RETURN_IF_ERROR(device_.check(
      cudaMemcpyAsync(to, piece.memory.data(), bytes, cudaMemcpyHostToDevice, stream), what));
  RETURN_IF_ERROR(device_.check(cudaEventRecord(piece.copied.get(), stream), what));
  piece.busy = true;
  return {};
}

}  // namespace airlock::cuda
