#include "gpu_server/group/int8_lines.h"

#include <fmt/format.h>

#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "base/thread.h"

namespace airlock {

namespace {

Status add_lines(const std::string& text, std::vector<Int8Line>& lines) {
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t space = text.find(' ', at);
    const std::size_t end = text.find('\n', at);
    if (space == std::string::npos || end == std::string::npos || space > end || space == at ||
        space - at > 9 || text.find_first_not_of("0123456789", at) != space)
      return {StatusCode::kProtocolError, "a rank has sent no lines of a digest"};
    lines.push_back(
        {std::stoul(text.substr(at, space - at)), text.substr(space + 1, end - space - 1)});
    at = end + 1;
  }
  return {};
}

}  // namespace

std::string int8_text(std::span<const Int8Line> lines) {
  std::string text;
  for (const Int8Line& line : lines) text += fmt::format("{} {}\n", line.number, line.digest);
  return text;
}

Result<std::string> prepare_group_int8(GroupLeader& leader, ComputeModel* own,
                                       const ModelSource& source, Int8Weights weights,
                                       const Int8Progress& progress) {
  std::optional<Result<std::vector<std::string>>> others;
  ASSIGN_OR_RETURN(std::thread waiting, start_thread("int8 weights of other ranks", [&] {
                     const Status status = without_exceptions([&]() -> Status {
                       others = leader.make_int8(weights);
                       return {};
                     });
                     if (!status.ok()) others = status;
                   }));
  Result<std::vector<Int8Line>> mine = std::vector<Int8Line>();
  const Status status = without_exceptions([&]() -> Status {
    if (own != nullptr) mine = own->prepare_int8_share(source, weights, progress);
    return {};
  });
  waiting.join();
  RETURN_IF_ERROR(status);
  RETURN_IF_ERROR(others->status());
  ASSIGN_OR_RETURN(std::vector<Int8Line> lines, std::move(mine));
  for (const std::string& text : **others) RETURN_IF_ERROR(add_lines(text, lines));
  return join_int8_lines(weights, source.config().dims, lines);
}

}  // namespace airlock
