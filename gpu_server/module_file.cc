#include "gpu_server/module_file.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>
#include <string_view>
#include <system_error>

#include "base/version.h"

namespace airlock {

namespace {

template <typename... Args>
Status unusable(const ModuleKind& kind, const std::string& path, fmt::format_string<Args...> why,
                Args&&... args) {
  return {StatusCode::kDevice, "the {} {} {}", kind.title, path,
          fmt::format(why, std::forward<Args>(args)...)};
}

Result<std::string> find_file(const ModuleKind& kind) {
  std::error_code error;
  const std::string directory =
      std::filesystem::read_symlink("/proc/self/exe", error).parent_path().string();
  if (error) {
    return Status(StatusCode::kDevice, "the {} is not found: /proc/self/exe: {}; name it with {}",
                  kind.title, error.message(), kind.option);
  }
  for (const char* place : {"/", "/../lib/airlock/"}) {
    std::string path = directory + place + kind.file_name;
    if (::access(path.c_str(), F_OK) == 0) return path;
  }
  return Status(StatusCode::kDevice, "this build has no {} ({}/{}): {}, or name one with {}",
                kind.title, directory, kind.file_name, kind.to_build, kind.option);
}

// The whole path: dlopen() looks for a mere name in the system's folders.
Result<std::string> real_file(const ModuleKind& kind, const std::string& path) {
  std::error_code error;
  const auto real = std::filesystem::canonical(path, error);
  const bool is_file = !error && std::filesystem::is_regular_file(real, error);
  if (error) return unusable(kind, path, "cannot be read: {}", error.message());
  if (!is_file) return unusable(kind, path, "is not a file");
  return real.string();
}

// What the loader says, without the path where that is the module's own.
std::string loader_error(const std::string& path) {
  const char* text = ::dlerror();
  std::string_view error = text == nullptr ? "no reason was given" : text;
  if (error.starts_with(path + ": ")) error.remove_prefix(path.size() + 2);
  return std::string(error);
}

}  // namespace

Result<void*> find_module_entry(const ModuleKind& kind, const std::string& path) {
  ASSIGN_OR_RETURN(const std::string wanted, path.empty() ? find_file(kind) : path);
  ASSIGN_OR_RETURN(const std::string file, real_file(kind, wanted));
  void* library = ::dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return unusable(kind, file, "does not load: {}", loader_error(file));
  void* entry = ::dlsym(library, kind.entry);
  if (entry == nullptr)
    return unusable(kind, file, "is no module of Airlock's: it has no {}", kind.entry);
  return entry;
}

Status check_module(const ModuleKind& kind, const std::string& path, const ModuleHead* head) {
  const std::string name = path.empty() ? kind.file_name : path;
  if (head == nullptr) return unusable(kind, name, "gives no interface");
  if (head->abi != kModuleAbi) {
    return unusable(kind, name,
                    "has interface {}, this gpu_server has {}: both must be of one build",
                    head->abi, kModuleAbi);
  }
  if (head->version == nullptr || std::string_view(head->version) != kVersion) {
    return unusable(kind, name,
                    "is of release {}, this gpu_server is of {}: both must be of one build",
                    head->version == nullptr ? "none" : head->version, kVersion);
  }
  return {};
}

}  // namespace airlock
