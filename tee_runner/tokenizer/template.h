#pragma once

#include <cstdint>
#include <vector>

#include "runtime/json/reader.h"
#include "tee_runner/tokenizer/vocabulary.h"

namespace airlock {

/// What the post-processor of a tokenizer.json puts around one text: ids of a vocabulary.
struct TextTemplate {
  static constexpr std::size_t kMaxIds = 64;

  std::vector<std::int32_t> before;
  std::vector<std::int32_t> after;

  /// `root` is the whole file. What is wrong, or not supported, is told to the reader.
  static TextTemplate read(const JsonReader& root, const Vocabulary& vocabulary);
};

}  // namespace airlock
