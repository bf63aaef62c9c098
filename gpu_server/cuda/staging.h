#pragma once

#include <array>
#include <cstddef>

#include "gpu_server/cuda/memory.h"

/// Internal to gpu_server/cuda.
namespace airlock::cuda {

/// A few pinned buffers through which tensors go that do not lie in registered memory (what crossed
/// by ZeroMQ), a piece at a time, in one direction: the host copies one piece while the device
/// copies the other. Made when first needed; its size is the bound on what is pinned. One thread.
class Staging {
 public:
  static constexpr std::size_t kPieceBytes = std::size_t{4} << 20;
  static constexpr std::size_t kPieces = 4;

  struct Piece {
    HostBuffer memory;
    Event copied;
    bool busy = false;  // the device still copies: until `copied` is over
  };

  explicit Staging(Device& device) : device_(device) {}
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  /// kResourceExhausted. Whether pieces are pinned is the device's choice.
  Status prepare();
  /// The pieces in turn, by a count that only grows. It may still be busy.
  Piece& piece(std::size_t count) { return pieces_[count % kPieces]; }
  /// The next piece, when it is free. kDevice, and the device is lost, where that takes too long.
  Result<Piece*> next_free();
  bool pinned() const { return pieces_[0].memory.pinned(); }

 private:
  Device& device_;
  std::array<Piece, kPieces> pieces_;
  std::size_t turn_ = 0;
  bool prepared_ = false;
};

}  // namespace airlock::cuda
