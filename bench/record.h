#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/text/output_form.h"

namespace airlock::bench {

/// What -o may ask a program for.
inline constexpr OutputForm kForms[] = {OutputForm::kMarkdown, OutputForm::kJson};

/// One flat JSON object, written as fields are added. One thread.
class Record {
 public:
  Record& text(std::string_view key, std::string_view value);
  Record& number(std::string_view key, double value);  // not finite: null
  Record& count(std::string_view key, std::uint64_t value);
  /// KEY_median, KEY_min, KEY_max and KEY_count of at least one value.
  Record& spread(std::string_view key, std::vector<double> values);
  std::string json() const { return "{" + fields_ + "}"; }

 private:
  Record& field(std::string_view key, std::string_view json_value);
  std::string fields_;
};

double median_of(std::vector<double> values);  // of at least one value

}  // namespace airlock::bench
