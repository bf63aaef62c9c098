#include "gpu_server/cuda/staging.h"

#include "gpu_server/cuda/wait.h"

namespace airlock::cuda {

namespace {
// 4 MiB take well under a millisecond, but other sessions' gigabytes may be queued before them.
constexpr std::chrono::seconds kPieceTimeout{60};
}  // namespace

Status Staging::prepare() {
  if (prepared_) return {};
  for (Piece& piece : pieces_) {
    ASSIGN_OR_RETURN(piece.memory, HostBuffer::allocate(device_, kPieceBytes));
    ASSIGN_OR_RETURN(piece.copied, make_event(device_));
  }
  prepared_ = true;
  return {};
}

Result<Staging::Piece*> Staging::next_free() {
  Piece& next = piece(turn_++);
  if (next.busy) {
    RETURN_IF_ERROR(wait_for_event(device_, next.copied.get(), Deadline::after(kPieceTimeout)));
    next.busy = false;
  }
  return &next;
}

}  // namespace airlock::cuda
