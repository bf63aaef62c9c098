#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace airlock::xfer {

/// The seed of one message's pattern. Different for each message of each row, so that bytes which
/// an earlier message left behind are never taken for this one's.
std::uint64_t pattern_seed(std::uint64_t row, std::uint64_t message);
/// Each word is another: bytes that were moved, repeated or lost show.
void fill_pattern(std::span<std::byte> bytes, std::uint64_t seed);
/// How many bytes differ from what fill_pattern() writes.
std::uint64_t count_wrong(std::span<const std::byte> bytes, std::uint64_t seed);

}  // namespace airlock::xfer
