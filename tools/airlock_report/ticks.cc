#include "tools/airlock_report/ticks.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

namespace airlock::report {
namespace {

/// Steps and powers of ten stay under this, so that no multiple of them overflows.
constexpr std::uint64_t kMostValue = std::uint64_t{1} << 62;

std::string in_unit(std::uint64_t value, std::uint64_t factor,
                    std::initializer_list<const char*> units) {
  if (value == 0) return "0";
  double scaled = static_cast<double>(value);
  auto unit = units.begin();
  while (std::next(unit) != units.end() && scaled >= static_cast<double>(factor)) {
    scaled /= static_cast<double>(factor);
    ++unit;
  }
  return fmt::format("{:.4g}{}{}", scaled, **unit == '\0' ? "" : " ", *unit);
}

std::string label_of(std::uint64_t value, Unit unit) {
  switch (unit) {
    case Unit::kTime:
      return in_unit(value, 1000, {"ns", "µs", "ms", "s"});
    case Unit::kBytes:
      return in_unit(value, 1024, {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"});
    case Unit::kCount:
      return in_unit(value, 1000, {"", "k", "M", "G", "T"});
  }
  return {};
}

/// The steps 1, 2, 5, 10, 20, ... or 1, 2, 4, 8, ...
std::uint64_t next_step(std::uint64_t step, Unit unit) {
  if (unit == Unit::kBytes) return step * 2;
  std::uint64_t power = 1;
  while (power <= step / 10) power *= 10;
  return step == 2 * power ? 5 * power : step * 2;
}

}  // namespace

std::vector<Tick> linear_ticks(std::uint64_t max, std::size_t most, Unit unit) {
  max = std::clamp<std::uint64_t>(max, 1, kMostValue);
  most = std::max<std::size_t>(most, 1);
  std::uint64_t step = 1;
  while ((max - 1) / step + 1 > most) step = next_step(step, unit);
  std::vector<Tick> ticks;
  const std::uint64_t count = (max - 1) / step + 1;
  for (std::uint64_t i = 0; i <= count; ++i) ticks.push_back({i * step, label_of(i * step, unit)});
  return ticks;
}

std::vector<Tick> log_ticks(std::uint64_t low, std::uint64_t high, std::size_t most) {
  high = std::min(high, kMostValue);
  most = std::max<std::size_t>(most, 1);
  std::vector<std::uint64_t> values;
  const auto fill = [&](std::initializer_list<std::uint64_t> factors) {
    values.clear();
    for (std::uint64_t power = 1; power <= high; power *= 10) {
      for (const std::uint64_t factor : factors) {
        const std::uint64_t value = factor * power;
        if (value >= low && value <= high) values.push_back(value);
      }
    }
  };
  fill({1, 2, 5});
  if (values.size() > most) fill({1, 3});
  if (values.size() > most) fill({1});
  const std::size_t stride = values.empty() ? 1 : (values.size() - 1) / most + 1;
  std::vector<Tick> ticks;
  for (std::size_t i = 0; i < values.size(); i += stride)
    ticks.push_back({values[i], label_of(values[i], Unit::kTime)});
  return ticks;
}

}  // namespace airlock::report
