#pragma once

#include <chrono>
#include <thread>

namespace airlock {

/// How a loop looks for something again and again: a short spin, then naps of 20 us, so that what
/// comes at once is seen at once and what takes long costs no core.
class Patience {
 public:
  explicit Patience(int spins) : spins_(spins) {}
  void reset() { rounds_ = 0; }
  void pause() {
    if (rounds_ < spins_) {
      ++rounds_;
    } else {
      std::this_thread::sleep_for(std::chrono::microseconds(20));
    }
  }

 private:
  const int spins_;
  int rounds_ = 0;
};

}  // namespace airlock
