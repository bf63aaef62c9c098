#include "tests/cuda_fake/fake_memory.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <utility>

#include "tests/support/sanitizer.h"
#if AIRLOCK_ASAN
#include <sanitizer/asan_interface.h>
#endif

namespace airlock::cuda_fake {

namespace {

constexpr std::size_t kAlignment = 512;
constexpr std::size_t kMaxFreed = 65536;
// Not canonical on x86-64 and not a user address on arm64, where the top byte does not count.
constexpr std::uintptr_t kFirstAddress = 0x0dec'0000'0000'0000;
constexpr std::uintptr_t kAddresses = std::uintptr_t{1} << 48;

std::uintptr_t take_addresses(std::size_t bytes) {
  static std::uintptr_t next = kFirstAddress + kAlignment;  // under State::mutex, beyond reset()
  const std::uintptr_t base = next;
  next += (bytes / kAlignment + 2) * kAlignment;  // a gap, so that no range runs into the next
  return base;
}

}  // namespace

void fill(const Rows& rows) {
  for (std::size_t row = 0; row < rows.height; ++row) {
    std::memset(rows.data + row * rows.pitch, kFill, rows.width);
  }
}

std::uint64_t hash(const Rows& rows) {
  std::uint64_t sum = 0xcbf29ce484222325;
  const auto add = [&sum](std::uint64_t word) {
    sum = (sum ^ word) * 0x9e3779b97f4a7c15;
    sum ^= sum >> 29;
  };
  for (std::size_t row = 0; row < rows.height; ++row) {
    const std::byte* data = rows.data + row * rows.pitch;
    std::size_t at = 0;
    for (; at + sizeof(std::uint64_t) <= rows.width; at += sizeof(std::uint64_t)) {
      std::uint64_t word = 0;
      std::memcpy(&word, data + at, sizeof word);
      add(word);
    }
    std::uint64_t word = 0;
    std::memcpy(&word, data + at, rows.width - at);
    add(word);
  }
  return sum;
}

void copy(const Rows& to, const Rows& from) {
  for (std::size_t row = 0; row < to.height; ++row) {
    std::memmove(to.data + row * to.pitch, from.data + row * from.pitch, to.width);
  }
}

void poison([[maybe_unused]] const Rows& rows) {
#if AIRLOCK_ASAN
  for (std::size_t row = 0; row < rows.height; ++row) {
    __asan_poison_memory_region(rows.data + row * rows.pitch, rows.width);
  }
#endif
}

void unpoison([[maybe_unused]] const Rows& rows) {
#if AIRLOCK_ASAN
  for (std::size_t row = 0; row < rows.height; ++row) {
    __asan_unpoison_memory_region(rows.data + row * rows.pitch, rows.width);
  }
#endif
}

bool is_mapped(const std::byte* data, std::size_t bytes) {
  const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto first = reinterpret_cast<std::uintptr_t>(data) / page * page;
  const std::uintptr_t length = reinterpret_cast<std::uintptr_t>(data) - first + bytes;
  std::vector<unsigned char> resident((length + page - 1) / page);
  return mincore(reinterpret_cast<void*>(first), length, resident.data()) == 0;
}

bool is_device_address(std::uintptr_t address) {
  return address >= kFirstAddress && address - kFirstAddress < kAddresses;
}

bool overlap(const Access& a, const Access& b) {
  if (a.address >= b.address + b.bytes || b.address >= a.address + a.bytes) return false;
  if (a.pitch == 0 && b.pitch == 0) return true;
  if (a.pitch == 0) return overlap(b, a);
  for (std::size_t at = 0; at < a.bytes; at += a.pitch) {
    const std::uintptr_t begin = a.address + at;
    if (b.address >= begin + a.width || begin >= b.address + b.bytes) continue;
    if (b.pitch == 0 || begin <= b.address) return true;
    // Where the row begins among b's: within one, or before the next.
    const std::size_t offset = (begin - b.address) % b.pitch;
    const bool is_last = begin - offset + b.pitch >= b.address + b.bytes;
    if (offset < b.width || (!is_last && offset + a.width > b.pitch)) return true;
  }
  return false;
}

std::optional<std::uintptr_t> Memory::allocate(Allocation allocation) {
  const std::size_t bytes = (allocation.bytes + kAlignment - 1) / kAlignment * kAlignment;
  auto* data = static_cast<std::byte*>(std::aligned_alloc(kAlignment, bytes));
  if (data == nullptr) return std::nullopt;
  std::memset(data, kFill, bytes);
  allocation.data = std::shared_ptr<std::byte>(data, [](std::byte* gone) { std::free(gone); });
  const std::uintptr_t base = take_addresses(allocation.bytes);
  allocations_.emplace(base, std::move(allocation));
  return base;
}

Allocation* Memory::find(std::uintptr_t base) {
  const auto found = allocations_.find(base);
  return found == allocations_.end() ? nullptr : &found->second;
}

void Memory::release(std::uintptr_t base) {
  const auto found = allocations_.find(base);
  if (found == allocations_.end()) return;
  freed_[base] = found->second.bytes;
  if (freed_.size() > kMaxFreed) freed_.erase(freed_.begin());
  allocations_.erase(found);
}

std::size_t Memory::used(int device) const {
  std::size_t sum = 0;
  for (const auto& [base, allocation] : allocations_) {
    if (allocation.device == device) sum += allocation.bytes;
  }
  return sum;
}

std::size_t Memory::freed_in(int device, StreamId stream) const {
  std::size_t sum = 0;
  for (const auto& [base, allocation] : allocations_) {
    if (allocation.device == device && allocation.freed_in == stream) sum += allocation.bytes;
  }
  return sum;
}

std::map<std::uintptr_t, Allocation>::const_iterator Memory::containing(
    std::uintptr_t address) const {
  const auto after = allocations_.upper_bound(address);
  if (after == allocations_.begin()) return allocations_.end();
  const auto found = std::prev(after);
  return address - found->first < found->second.bytes ? found : allocations_.end();
}

std::string Memory::explain(std::uintptr_t address) const {
  if (!is_device_address(address)) return "host memory";
  const auto after = freed_.upper_bound(address);
  if (after != freed_.begin() && address - std::prev(after)->first < std::prev(after)->second) {
    return "device memory that was freed";
  }
  return "no device memory";
}

std::string Memory::resolve(const Access& access, int device, Resolved& out) const {
  if (!access.device) {
    out.data = reinterpret_cast<std::byte*>(access.address);
    out.available = access.bytes;
    return is_mapped(out.data, access.bytes) ? "" : "host memory that is no longer there";
  }
  const auto found = containing(access.address);
  if (found == allocations_.end()) return explain(access.address);
  const Allocation& allocation = found->second;
  const std::size_t offset = access.address - found->first;
  if (access.bytes > allocation.bytes - offset) {
    return fmt::format("device memory that ends before ({} of {} bytes are left there)",
                       allocation.bytes - offset, allocation.bytes);
  }
  if (allocation.device != device) return fmt::format("memory of device {}", allocation.device);
  if (!allocation.ready) return "device memory before its cudaMallocAsync ran";
  out.data = allocation.data.get() + offset;
  out.available = allocation.bytes - offset;
  out.keep = allocation.data;
  return "";
}

bool Memory::register_host(std::uintptr_t base, std::size_t bytes, std::optional<int> device) {
  const Registration* whose = nullptr;
  if (cover(base, bytes, whose) != Cover::kNone) return false;
  registrations_[base] = {bytes, next_registration_++, device};
  return true;
}

bool Memory::is_registered(std::uint64_t id) const {
  return std::any_of(registrations_.begin(), registrations_.end(),
                     [id](const auto& entry) { return entry.second.id == id; });
}

const Registration* Memory::registration(std::uintptr_t base) const {
  const auto found = registrations_.find(base);
  return found == registrations_.end() ? nullptr : &found->second;
}

void Memory::unregister_host(std::uintptr_t base) { registrations_.erase(base); }

Memory::Cover Memory::cover(std::uintptr_t address, std::size_t bytes,
                            const Registration*& whose) const {
  auto at = registrations_.upper_bound(address);
  if (at != registrations_.begin()) {
    const auto before = std::prev(at);
    const std::uintptr_t end = before->first + before->second.bytes;
    if (address + bytes <= end) {
      whose = &before->second;
      return Cover::kWhole;
    }
    if (address < end) return Cover::kPart;
  }
  return at != registrations_.end() && at->first < address + bytes ? Cover::kPart : Cover::kNone;
}

std::vector<std::string> Memory::leaks() const {
  std::vector<std::string> found;
  for (const auto& [base, allocation] : allocations_) {
    if (allocation.freed_in) continue;  // its stream is the leak
    found.push_back(
        fmt::format("{} bytes of device memory at {:#x} were not freed", allocation.bytes, base));
  }
  for (const auto& [base, registration] : registrations_) {
    found.push_back(fmt::format("{} bytes of host memory at {:#x} were not unregistered",
                                registration.bytes, base));
  }
  return found;
}

}  // namespace airlock::cuda_fake
