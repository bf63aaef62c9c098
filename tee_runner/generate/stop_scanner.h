#pragma once

#include <array>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace airlock {

inline constexpr std::size_t kMaxStopStrings = 16;
inline constexpr std::size_t kMaxStopBytes = 256;

/// Ends a text that comes in pieces before the first place where a stop string begins in it. What
/// may be the beginning of one is held back until that is known, a character that is not complete
/// until it is; so each text that is given out ends between two characters, where the pieces
/// together are UTF-8. However the pieces are cut, the texts together are the same.
///
/// Where one stop string lies inside of another that may still come, the end is known once the
/// other is decided, in finish() at the latest. One thread. Fewer than kMaxStopBytes are held, and
/// looked at again with the next piece; each byte that may begin a stop string is compared with all
/// of them.
class StopScanner {
 public:
  /// kInvalidInput where there are more than the limits allow, or one is empty.
  static Result<StopScanner> create(std::vector<std::string> stops);

  /// What can be given out with this piece. Empty once the end has come.
  std::string feed(std::string_view piece);
  /// What was held back, once no more comes.
  std::string finish();
  /// A stop string came: the text has ended, what follows is of no interest.
  bool stopped() const { return stopped_; }

 private:
  explicit StopScanner(std::vector<std::string> stops);

  std::vector<std::string> stops_;
  // Whether a stop string begins with this byte.
  std::array<bool, 256> begins_{};
  std::string held_;
  bool stopped_ = false;
};

}  // namespace airlock
