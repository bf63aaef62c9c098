#include "runtime/program/sizes.h"

#include <charconv>
#include <limits>

namespace airlock {
namespace {

std::optional<unsigned> shift_of(std::string_view suffix) {
  if (suffix.empty()) return 0;
  if (suffix.size() != 1) return std::nullopt;
  switch (suffix[0]) {
    case 'K':
    case 'k':
      return 10;
    case 'M':
    case 'm':
      return 20;
    case 'G':
    case 'g':
      return 30;
    default:
      return std::nullopt;
  }
}

}  // namespace

std::optional<std::uint64_t> parse_size(std::string_view text) {
  std::uint64_t number = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, number);
  if (error != std::errc()) return std::nullopt;
  const auto shift = shift_of({stop, static_cast<std::size_t>(end - stop)});
  if (!shift.has_value() || number > (~std::uint64_t{0} >> *shift)) return std::nullopt;
  return number << *shift;
}

}  // namespace airlock
