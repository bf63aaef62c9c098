#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "base/page_buffer.h"
#include "gpu_server/cuda/device.h"

/// Internal to gpu_server/cuda.
namespace airlock::cuda {

/// How tensors lie on the device: what cudaMalloc() itself aligns to.
constexpr std::size_t aligned(std::size_t bytes) { return (bytes + 255) / 256 * 256; }

/// cudaMalloc'ed memory of a fixed size: weights, a workspace. One thread.
using DeviceMemory = Handle<void*, cudaFree>;
/// kResourceExhausted names `what` and its size.
Result<DeviceMemory> allocate(Device& device, std::size_t bytes, std::string_view what);

/// Device memory that only grows, in the order of a stream: nobody waits for it. What lay in it is
/// gone when it grows. One thread; must be empty (release()) before its stream is destroyed.
class GrowingBuffer {
 public:
  explicit GrowingBuffer(Device& device) : device_(device) {}
  GrowingBuffer(const GrowingBuffer&) = delete;
  GrowingBuffer& operator=(const GrowingBuffer&) = delete;

  /// At least `bytes`, for work that is queued on `stream` from now on; the same stream each time,
  /// and nothing under way may use what lies there now. kResourceExhausted leaves it empty.
  Status reserve(std::size_t bytes, cudaStream_t stream);
  Status release(cudaStream_t stream);
  std::byte* data() const { return data_; }

 private:
  Device& device_;
  std::byte* data_ = nullptr;
  std::size_t capacity_ = 0;
};

/// Host memory that every device was made to know (pinned), so that it is copied where it lies; or
/// none. CUDA pins no range twice, so the same range shares what another device has made of it.
/// One thread.
class Registration {
 public:
  Registration() = default;
  /// Of nothing where the system does not pin `memory`, which is no harm: copies are slower then.
  /// kDevice: the device is lost.
  static Result<Registration> make(Device& device, std::span<std::byte> memory);
  bool pinned() const { return pinned_ != nullptr; }
  bool covers(const std::byte* data, std::size_t bytes) const {
    return memory_.data() <= data && data + bytes <= memory_.data() + memory_.size();
  }

 private:
  struct Pinned;
  std::shared_ptr<Pinned> pinned_;
  std::span<std::byte> memory_;
};

/// A few buffers, pinned where the system does that, through which goes what does not lie in
/// registered memory (tensors that crossed by ZeroMQ, weights), a piece at a time, in one
/// direction: the host copies one piece while the device copies another. Made when first needed;
/// its size is the bound on what is pinned. One thread.
class Staging {
 public:
  static constexpr std::size_t kPieceBytes = std::size_t{4} << 20;
  static constexpr std::size_t kPieces = 4;

  struct Piece {
    PageBuffer memory;
    Registration registration;  // goes before the memory does
    Event copied;
    bool busy = false;             // the device still copies: until `copied` is over
    std::size_t secret_bytes = 0;  // from its beginning on, to be wiped
    const void* keeper = nullptr;  // who put them there
  };

  explicit Staging(Device& device, std::size_t pieces = kPieces,
                   std::size_t piece_bytes = kPieceBytes)
      : device_(device), piece_bytes_(piece_bytes), pieces_(pieces) {}
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  /// kResourceExhausted. Whether pieces are pinned is the system's choice.
  Status prepare();
  /// The pieces in turn, by a count that only grows. It may still be busy.
  Piece& piece(std::size_t count) { return pieces_[count % pieces_.size()]; }
  /// The next piece, when it is free. kDevice, and the device is lost, where that takes too long.
  Result<Piece*> next_free();
  /// Queues the copy of a piece's first `bytes` to the device; the piece is busy until it is done.
  Status send(Piece& piece, std::byte* to, std::size_t bytes, cudaStream_t stream,
              std::string_view what);
  /// The next one's first `bytes` become a secret of `keeper` (an address that tells who): they are
  /// wiped before another one gets the piece, or by wipe().
  Result<Piece*> next_for_secret(std::size_t bytes, const void* keeper);
  /// What `keeper` left. The copies of it are over, or the device is lost.
  void wipe(const void* keeper);
  bool pinned() const { return pieces_.front().registration.pinned(); }

 private:
  static void wipe(Piece& piece);

  Device& device_;
  const std::size_t piece_bytes_;
  std::vector<Piece> pieces_;
  std::size_t turn_ = 0;
  bool prepared_ = false;
};

}  // namespace airlock::cuda
