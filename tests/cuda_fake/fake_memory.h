#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

/// The fake device's memory and the registered host memory. Not thread-safe: under State::mutex.
namespace airlock::cuda_fake {

/// What memory holds that nothing was written to yet: NaN in every float type, -1 in every integer.
inline constexpr unsigned char kFill = 0xff;

using StreamId = std::uint64_t;

/// Rows of bytes in this process.
struct Rows {
  std::byte* data = nullptr;
  std::size_t width = 0;
  std::size_t pitch = 0;
  std::size_t height = 0;

  /// From the first byte to the last.
  std::size_t extent() const { return height == 0 ? 0 : (height - 1) * pitch + width; }
};

void fill(const Rows& rows);
std::uint64_t hash(const Rows& rows);
void copy(const Rows& to, const Rows& from);
/// For AddressSanitizer: the bytes may not be touched. Nothing in other builds.
void poison(const Rows& rows);
void unpoison(const Rows& rows);
/// Whether the process has memory there.
bool is_mapped(const std::byte* data, std::size_t bytes);

bool is_device_address(std::uintptr_t address);

/// Memory that work reads or writes.
struct Access {
  std::uintptr_t address = 0;
  std::size_t bytes = 0;
  bool device = true;
  bool write = false;
  bool scratch = false;  // what is there before and after does not matter
  std::size_t pitch =
      0;  // of rows of `width` bytes that do not touch what is between them; 0: none
  std::size_t width = 0;
  bool to_end = false;  // and whatever follows in the allocation, for the work to check
};

bool overlap(const Access& a, const Access& b);

struct Allocation {
  std::size_t bytes = 0;
  int device = 0;
  std::shared_ptr<std::byte> data;
  bool pooled = false;               // of cudaMallocAsync
  bool ready = true;                 // false until the stream came to the cudaMallocAsync
  std::optional<StreamId> freed_in;  // the stream that has its cudaFreeAsync queued
};

/// Where work finds an access.
struct Resolved {
  std::byte* data = nullptr;
  std::size_t available = 0;        // to the end of the allocation
  std::shared_ptr<std::byte> keep;  // while the work runs
};

struct Registration {
  std::size_t bytes = 0;
  std::uint64_t id = 0;
  std::optional<int> device;  // the only one that it is pinned for; else all
};

class Memory {
 public:
  /// An address never given out before. nullopt where the host has no memory.
  std::optional<std::uintptr_t> allocate(Allocation allocation);
  /// By its first byte.
  Allocation* find(std::uintptr_t base);
  void release(std::uintptr_t base);
  std::size_t used(int device) const;
  /// The part of used() that `stream` has queued frees of.
  std::size_t freed_in(int device, StreamId stream) const;

  /// Fills `out`, or says what is wrong with it: "... that was freed".
  std::string resolve(const Access& access, int device, Resolved& out) const;
  /// What a device address without an allocation is.
  std::string explain(std::uintptr_t address) const;

  /// For one device, or for all. false where it overlaps another.
  bool register_host(std::uintptr_t base, std::size_t bytes, std::optional<int> device);
  bool is_registered(std::uint64_t id) const;
  const Registration* registration(std::uintptr_t base) const;
  void unregister_host(std::uintptr_t base);

  enum class Cover { kNone, kPart, kWhole };
  /// How much of the range one registration covers, whose it is if all of it.
  Cover cover(std::uintptr_t address, std::size_t bytes, const Registration*& whose) const;

  std::vector<std::string> leaks() const;

 private:
  std::map<std::uintptr_t, Allocation>::const_iterator containing(std::uintptr_t address) const;

  std::map<std::uintptr_t, Allocation> allocations_;
  std::map<std::uintptr_t, std::size_t> freed_;
  std::map<std::uintptr_t, Registration> registrations_;
  std::uint64_t next_registration_ = 1;
};

}  // namespace airlock::cuda_fake
