#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace airlock {

/// A bar with MB/s on stderr while weights load: redrawn in place on a terminal, else one line at
/// the end. One thread.
class ProgressBar {
 public:
  explicit ProgressBar(std::string what);
  ~ProgressBar();  // takes away a bar that was not finished
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;
  /// 0 bytes: the load begins only now.
  void update(std::size_t done_bytes, std::size_t total_bytes);
  /// Ends the line and logs how much was loaded and how fast, up to the last update(): what a
  /// device is prepared for after that is no loading.
  void finish();

 private:
  void clear();

  std::string what_;
  bool terminal_;
  bool drawn_ = false;
  std::uint64_t start_ns_;
  std::uint64_t drawn_ns_ = 0;
  std::uint64_t last_ns_ = 0;  // of update()
  std::size_t done_bytes_ = 0;
};

}  // namespace airlock
