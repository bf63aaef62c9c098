#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/output_file.h"
#include "base/status.h"
#include "base/tensor.h"
#include "runtime/model/forward_plan.h"

namespace airlock {

/// What the tensors of a run take in a payload file. Sums stop at the largest number instead of
/// overflowing.
struct PayloadNeed {
  std::uint64_t header_bytes = 0;  // room for every entry
  std::uint64_t data_bytes = 0;
  std::uint64_t json_values = 0;  // of the header, which our own reader bounds
};
/// `runs` times the tensors of `plan`, a plan for `dims` (CHECKed).
PayloadNeed payload_need(const ModelDims& dims, std::span<const PlannedOp> plan,
                         std::uint64_t runs);

/// Writes a safetensors file tensor by tensor. Its header has room for all of them from the start,
/// so that the file can be read after each tensor and after a kill: a tensor's entry comes first,
/// then its bytes. One thread.
class PayloadWriter {
 public:
  /// kUsage where a file lies at `path` that no PayloadWriter made: it is never replaced.
  static Status check_place(const std::string& path);
  /// A new file of mode 0600 in the place of what was there. kUsage: more tensors than a header
  /// holds, or as check_place(). kResourceExhausted, with need and have: the disk has less room.
  /// kInvalidInput: the file cannot be made.
  static Result<std::unique_ptr<PayloadWriter>> create(const std::string& path,
                                                       const PayloadNeed& need);
  /// The same in two steps: until take_place() what was there stays, and nothing else is seen.
  static Result<std::unique_ptr<PayloadWriter>> prepare(const std::string& path,
                                                        const PayloadNeed& need);
  Status take_place() { return file_->take_place(); }

  /// Appends the tensor and gives the SHA-256 of the bytes as they were written: each byte of
  /// `tensor` is read once, for it may lie where a peer can change it. After a failure
  /// (kResourceExhausted: the disk is full) the file holds what was added before, and nothing more
  /// can be added.
  Result<std::string> add(std::string_view name, TensorView tensor);

 private:
  PayloadWriter(std::string path, std::unique_ptr<OutputDraft> file, std::uint64_t room_bytes);
  Status write_at(std::uint64_t offset, std::string_view bytes) const;
  Result<std::string> append(std::string_view name, TensorView tensor);

  std::string path_;
  std::unique_ptr<OutputDraft> file_;
  std::uint64_t room_bytes_;      // of the JSON
  std::uint64_t json_bytes_ = 0;  // in use, the closing brace among them
  std::uint64_t data_bytes_ = 0;
  Status failure_;  // the first one
  std::vector<std::byte> copy_;
};

}  // namespace airlock
