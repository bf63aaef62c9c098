#pragma once

#include <cstdint>
#include <string_view>

#include "base/enum.h"

namespace airlock {

/// The form in which a program prints its result.
enum class OutputForm : std::uint8_t { kMarkdown, kJson, kCsv };

/// As the option -o takes it.
constexpr std::string_view name_of(OutputForm form) {
  switch (form) {
    case OutputForm::kMarkdown:
      return "md";
    case OutputForm::kJson:
      return "json";
    case OutputForm::kCsv:
      return "csv";
  }
  return {};
}

}  // namespace airlock
