#pragma once

#include <ucontext.h>

#include <csetjmp>
#include <cstddef>
#include <functional>

namespace airlock::model_check {

/// A stack of its own that runs one body after the other, each until it yields or ends. All fibers
/// belong to the thread that made them. A body lets no exception out.
class Fiber {
 public:
  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  /// Only after the last body ended. Runs with the next resume().
  void set_body(std::function<void()> body);
  /// From outside: goes on until the next yield(), or to the end.
  void resume();
  /// From inside.
  void yield();
  bool ended() const { return ended_; }

 private:
  static void enter(unsigned high, unsigned low);
  void run();

  std::function<void()> body_;
  std::byte* stack_ = nullptr;
  ucontext_t context_;
  /// Where the two sides stopped. Jumps, since swapcontext() makes a system call each time.
  std::jmp_buf outside_;
  std::jmp_buf inside_;
  bool started_ = false;
  bool ended_ = true;
};

}  // namespace airlock::model_check
