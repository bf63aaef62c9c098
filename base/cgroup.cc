#include "base/cgroup.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <limits>
#include <set>
#include <sstream>
#include <string_view>
#include <vector>

namespace airlock {

namespace {

/// One line of mountinfo that is a hierarchy of control groups.
struct Mount {
  // The group that is mounted: "/", or in some containers the path of their own.
  std::string group;
  std::string point;
  bool is_v2 = false;
  // Of v1; comma separated.
  std::string controllers;
};

template <typename T>
void lower(std::optional<T>& least, T value) {
  least = std::min(least.value_or(value), value);
}

bool has_word(std::string_view list, std::string_view word) {
  for (std::size_t begin = 0; begin <= list.size();) {
    const std::size_t end = std::min(list.find(',', begin), list.size());
    if (list.substr(begin, end - begin) == word) return true;
    begin = end + 1;
  }
  return false;
}

/// mountinfo writes blanks and backslashes as three octal digits.
std::string unescaped(std::string_view text) {
  std::string plain;
  for (std::size_t i = 0; i < text.size(); ++i) {
    unsigned code = 0;
    if (text[i] == '\\' && i + 3 < text.size() &&
        std::from_chars(&text[i + 1], &text[i] + 4, code, 8).ptr == &text[i] + 4) {
      plain += static_cast<char>(code);
      i += 3;
    } else {
      plain += text[i];
    }
  }
  return plain;
}

/// "36 25 0:31 GROUP POINT options [tags...] - TYPE source CONTROLLERS-and-options"
std::vector<Mount> read_mounts(const std::string& root) {
  std::vector<Mount> mounts;
  std::ifstream file(root + "/proc/self/mountinfo");
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string skipped;
    Mount mount;
    words >> skipped >> skipped >> skipped >> mount.group >> mount.point;
    while (words >> skipped && skipped != "-") {
    }
    std::string type;
    if (!(words >> type >> skipped >> mount.controllers)) continue;
    if (type != "cgroup" && type != "cgroup2") continue;
    mount.is_v2 = type == "cgroup2";
    mount.group = unescaped(mount.group);
    mount.point = unescaped(mount.point);
    mounts.push_back(std::move(mount));
  }
  return mounts;
}

/// Where this process is in the hierarchy of `mount`: a line "ID:CONTROLLERS:PATH".
std::optional<std::string> line_of(const Mount& mount, const std::string& root) {
  std::ifstream file(root + "/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const std::size_t first = line.find(':');
    const std::size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const bool same =
        mount.is_v2
            ? line.starts_with("0::")
            : (has_word(controllers, "cpu") && has_word(mount.controllers, "cpu")) ||
                  (has_word(controllers, "memory") && has_word(mount.controllers, "memory"));
    if (same) return line;
  }
  return std::nullopt;
}

std::string path_in(const std::string& line) {
  return line.substr(line.find(':', line.find(':') + 1) + 1);
}

/// What of `group` lies below the group that is mounted, "" for that group itself; nullopt: it is
/// no part of that.
std::optional<std::string> path_below(const Mount& mount, const std::string& group) {
  const std::string prefix = mount.group == "/" ? "" : mount.group;
  if (group != prefix && !group.starts_with(prefix + "/")) return std::nullopt;
  const std::string below = group.substr(prefix.size());
  if (below.find("/..") != std::string::npos) return std::nullopt;
  return below == "/" ? "" : below;
}

/// The folders of the group `below` a mount and of its ancestors, the group's own first, as far as
/// they are mounted.
std::vector<std::string> folders_of(const Mount& mount, std::string below,
                                    const std::string& root) {
  std::vector<std::string> folders;
  for (;;) {
    folders.push_back(root + mount.point + below);
    if (below.empty()) return folders;
    below.erase(below.rfind('/') == std::string::npos ? 0 : below.rfind('/'));
  }
}

std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

/// Nullopt: no file, or no number ("max", "-1").
std::optional<std::uint64_t> number_in(std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end == text.data()) return std::nullopt;
  return value;
}

std::optional<std::uint64_t> number_at(const std::string& path) {
  return number_in(first_line(path));
}

/// The value of a line "NAME VALUE"; 0 where there is none.
std::uint64_t stat_at(const std::string& path, std::string_view name) {
  std::ifstream file(path);
  std::string word;
  for (std::uint64_t value = 0; file >> word >> value;) {
    if (word == name) return value;
  }
  return 0;
}

std::optional<double> cpus_at(const std::string& folder, bool is_v2) {
  std::optional<std::uint64_t> quota;
  std::optional<std::uint64_t> period;
  if (is_v2) {
    // "max 100000" or "150000 100000"
    const std::string line = first_line(folder + "/cpu.max");
    quota = number_in(line);
    const std::size_t blank = line.find(' ');
    if (blank != std::string::npos) period = number_in(std::string_view(line).substr(blank + 1));
  } else {
    quota = number_at(folder + "/cpu.cfs_quota_us");
    period = number_at(folder + "/cpu.cfs_period_us");
  }
  if (!quota || !period || *period == 0) return std::nullopt;
  return static_cast<double>(*quota) / static_cast<double>(*period);
}

std::optional<std::uint64_t> memory_left_at(const std::string& folder, bool is_v2) {
  const auto most = number_at(folder + (is_v2 ? "/memory.max" : "/memory.limit_in_bytes"));
  const auto used = number_at(folder + (is_v2 ? "/memory.current" : "/memory.usage_in_bytes"));
  // v1 says "no limit" by a number beyond any memory.
  if (!most || !used || *most > std::numeric_limits<std::int64_t>::max() / 2) return std::nullopt;
  // What is used counts the groups below too; so must what can be dropped.
  const std::uint64_t droppable =
      stat_at(folder + "/memory.stat", is_v2 ? "inactive_file" : "total_inactive_file");
  const std::uint64_t kept = *used - std::min(*used, droppable);
  return *most - std::min(*most, kept);
}

}  // namespace

CgroupLimits read_cgroup_limits(const std::string& root) {
  CgroupLimits limits;
  const std::vector<Mount> mounts = read_mounts(root);
  std::vector<std::optional<std::string>> lines;
  for (const Mount& mount : mounts) lines.push_back(line_of(mount, root));
  // The lines of the hierarchies in which a mount has this process's group.
  std::set<std::string> found;
  for (std::size_t i = 0; i < mounts.size(); ++i) {
    if (lines[i] && path_below(mounts[i], path_in(*lines[i]))) found.insert(*lines[i]);
  }
  for (std::size_t i = 0; i < mounts.size(); ++i) {
    const Mount& mount = mounts[i];
    if (!lines[i]) continue;
    const auto below = path_below(mount, path_in(*lines[i]));
    // A container may see another path of its group than the one that is mounted; what is mounted
    // there is its own group then. Where the group is found elsewhere, this is another one.
    if (!below && found.contains(*lines[i])) continue;
    for (const std::string& folder : folders_of(mount, below.value_or(""), root)) {
      if (const auto cpus = cpus_at(folder, mount.is_v2)) lower(limits.cpus, *cpus);
      if (const auto left = memory_left_at(folder, mount.is_v2))
        lower(limits.memory_left_bytes, *left);
    }
  }
  return limits;
}

}  // namespace airlock
