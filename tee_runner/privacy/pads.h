#pragma once

#include <chrono>
#include <compare>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "base/deadline.h"
#include "base/pulse.h"
#include "base/status.h"
#include "runtime/backend.h"
#include "runtime/exact/int8_weights.h"
#include "runtime/exact/pad.h"
#include "runtime/stats/privacy_stats.h"

namespace airlock {

/// One linear of the model.
struct LinearId {
  std::uint16_t layer = 0;  // 0 of lm_head
  Linear linear = Linear::kQkv;
  auto operator<=>(const LinearId&) const = default;
};

/// A row of words that hide something: wiped when it goes.
class SecretWords {
 public:
  SecretWords() = default;
  explicit SecretWords(std::size_t count)
      : words_(new std::uint32_t[count]), count_(count) {}  // not zeroed
  SecretWords(SecretWords&& other) noexcept { *this = std::move(other); }
  SecretWords& operator=(SecretWords&& other) noexcept;
  ~SecretWords() { wipe(); }

  std::span<std::uint32_t> words() { return {words_.get(), count_}; }
  std::span<const std::uint32_t> words() const { return {words_.get(), count_}; }

 private:
  void wipe();

  std::unique_ptr<std::uint32_t[]> words_;
  std::size_t count_ = 0;
};

struct PadMakerOptions {
  std::int64_t layers = 0;
  PadKey key{};
  // What products may take that are made before they are asked for.
  std::uint64_t reserve_bytes = 0;
  std::chrono::nanoseconds op_timeout = std::chrono::seconds(300);
  // Beaten while take() waits; null, or outlives the maker.
  Pulse* pulse = nullptr;
};

/// The products R W^T of a session's pads R. A pad is one place: epoch (the pass), layer, linear,
/// row of the pass. Its product is a row of words for each plane of each weight of the linear, one
/// behind the other. A thread of its own asks a backend for them (pad_linear): this process's, or a
/// dealer's. It makes what was asked for first; then, while the reserve has room, what the pass
/// under way will ask for; then what the next passes will, if they are like the last ones. Each
/// product is given once; what was made for a pass that is over is wiped.
/// One thread calls.
class PadMaker {
 public:
  /// `products` is used on the maker's thread alone; model and statistics outlive the maker.
  /// kResourceExhausted: no thread.
  static Result<std::unique_ptr<PadMaker>> create(const PadMakerOptions& options,
                                                  const Int8Model& model, Backend& products,
                                                  PrivacyStats& stats);
  /// Waits for the op under way, if any.
  ~PadMaker();
  PadMaker(const PadMaker&) = delete;
  PadMaker& operator=(const PadMaker&) = delete;

  /// A pass over so many rows begins, whose pads have this epoch: more than the last one's.
  void begin_pass(std::uint32_t epoch, std::int64_t rows);
  /// Rows [first_row, first_row + count) of `id` in this pass will be taken soon; each row once.
  void want(const LinearId& id, std::uint32_t first_row, std::size_t count);
  /// Waits for them, once for each row, in order. What the backend failed with, from then on;
  /// kDeadlineExceeded.
  Result<std::vector<SecretWords>> take(const LinearId& id, std::uint32_t first_row,
                                        std::size_t count, Deadline deadline);

 private:
  /// Of a linear in one pass.
  struct Reserve {
    std::map<std::uint32_t, SecretWords> rows;
    std::uint32_t next_row = 0;  // those before it were taken, or are under way to be
  };
  using Pass = std::map<LinearId, Reserve>;
  struct Place {
    std::uint32_t epoch = 0;
    std::uint32_t row = 0;
    bool operator==(const Place&) const = default;
  };
  struct Job {
    LinearId id;
    std::vector<Place> places;
  };

  PadMaker(const PadMakerOptions& options, const Int8Model& model, Backend& products,
           PrivacyStats& stats);
  void work();
  void drop_before(std::uint64_t epoch);
  Job next_job();
  bool has_room(const LinearId& id, std::size_t count) const;
  void add_missing(const LinearId& id, std::uint32_t epoch, std::uint32_t first, std::uint32_t end,
                   Job& job);
  void add_next_passes(Job& job);
  Job ahead();
  Status make(const Job& job, std::vector<SecretWords>& made);
  void keep(std::vector<SecretWords> made);
  bool is_under_way(const LinearId& id, const Place& place) const;
  std::size_t row_words(const LinearId& id) const;
  std::uint32_t likely_rows(const LinearId& id) const;

  const PadMakerOptions options_;
  const Int8Model& model_;
  Backend& products_;  // the maker's thread's
  PrivacyStats& stats_;
  std::vector<LinearId> order_;  // as a pass asks for them

  std::mutex mutex_;
  std::condition_variable asked_;       // of the thread
  std::condition_variable ready_;       // of who waits
  std::map<std::uint32_t, Pass> made_;  // by epoch; guarded by mutex_, as are all below
  std::deque<Job> wanted_;
  Job under_way_;
  std::uint32_t epoch_ = 0;
  std::uint32_t rows_ = 0;        // of the pass under way; 0: none began
  std::uint32_t small_rows_ = 1;  // of the last small pass
  std::uint32_t head_rows_ = 1;   // that the last pass asked lm_head for
  std::uint64_t reserve_bytes_ = 0;
  Status failure_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace airlock
