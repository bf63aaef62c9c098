#include "tests/model_check/fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <utility>

#include "base/check.h"

namespace airlock::model_check {
namespace {

constexpr std::size_t kStackBytes = 256 << 10;
constexpr std::size_t kGuardBytes = 4096;

}  // namespace

Fiber::Fiber() {
  void* const memory = ::mmap(nullptr, kStackBytes + kGuardBytes, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
  CHECK(memory != MAP_FAILED);
  stack_ = static_cast<std::byte*>(memory);
  // An overflow faults.
  CHECK(::mprotect(stack_, kGuardBytes, PROT_NONE) == 0);
  CHECK(::getcontext(&context_) == 0);
  context_.uc_stack.ss_sp = stack_ + kGuardBytes;
  context_.uc_stack.ss_size = kStackBytes;
  context_.uc_link = nullptr;
  const auto self = reinterpret_cast<std::uintptr_t>(this);
  ::makecontext(&context_, reinterpret_cast<void (*)()>(&Fiber::enter), 2,
                static_cast<unsigned>(self >> 32), static_cast<unsigned>(self));
}

Fiber::~Fiber() { ::munmap(stack_, kStackBytes + kGuardBytes); }

void Fiber::enter(unsigned high, unsigned low) {
  // makecontext() passes ints only.
  reinterpret_cast<Fiber*>((std::uintptr_t{high} << 32) | low)->run();
}

void Fiber::run() {
  for (;;) {
    body_();
    ended_ = true;
    yield();
  }
}

void Fiber::set_body(std::function<void()> body) {
  CHECK(ended_);
  body_ = std::move(body);
  ended_ = false;
}

void Fiber::resume() {
  CHECK(!ended_);
  if (_setjmp(outside_) != 0) return;
  if (started_) _longjmp(inside_, 1);
  started_ = true;
  ::setcontext(&context_);
}

void Fiber::yield() {
  if (_setjmp(inside_) == 0) _longjmp(outside_, 1);
}

}  // namespace airlock::model_check
