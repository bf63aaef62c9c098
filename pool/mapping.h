#pragma once

#include <cstddef>
#include <span>
#include <utility>

#include "base/status.h"
#include "base/unique_fd.h"

namespace airlock {

/// Owns a range of address space. Move-only.
class Mapping {
 public:
  Mapping() = default;
  /// Shared memory, whole, where the system likes. kResourceExhausted.
  static Result<Mapping> of(const UniqueFd& memory, std::size_t bytes);
  /// Address space in which nothing can be touched yet, at a multiple of a huge page.
  /// kResourceExhausted.
  static Result<Mapping> reserve(std::size_t bytes);
  Mapping(Mapping&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Mapping& operator=(Mapping&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~Mapping();

  std::span<std::byte> bytes() const { return {data_, bytes_}; }
  /// Lays `memory`, whole, over [at, at + bytes) of this range. kResourceExhausted.
  Status lay(const UniqueFd& memory, std::size_t at, std::size_t bytes) const;
  /// Nothing can be touched there any more.
  void clear(std::size_t at, std::size_t bytes) const;

 private:
  Mapping(std::byte* data, std::size_t bytes) : data_(data), bytes_(bytes) {}

  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace airlock
