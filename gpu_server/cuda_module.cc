#include "gpu_server/cuda_module.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>
#include <string_view>
#include <system_error>

#include "base/version.h"

namespace airlock {

namespace {

constexpr const char* kFileName = "airlock_cuda.so";

template <typename... Args>
Status unusable(const std::string& path, fmt::format_string<Args...> why, Args&&... args) {
  return {StatusCode::kDevice, "the CUDA module {} {}", path,
          fmt::format(why, std::forward<Args>(args)...)};
}

Result<std::string> find_file() {
  std::error_code error;
  const std::string directory =
      std::filesystem::read_symlink("/proc/self/exe", error).parent_path().string();
  if (error) {
    return Status(StatusCode::kDevice,
                  "the CUDA module is not found: /proc/self/exe: {}; name it with --cuda-module",
                  error.message());
  }
  for (const char* place : {"/", "/../lib/airlock/"}) {
    const std::string path = directory + place + kFileName;
    if (::access(path.c_str(), F_OK) == 0) return path;
  }
  return Status(StatusCode::kDevice,
                "this build has no CUDA module ({}/{}): build where cmake finds the CUDA toolkit, "
                "or name one with --cuda-module",
                directory, kFileName);
}

// The whole path: dlopen() looks for a mere name in the system's folders.
Result<std::string> real_file(const std::string& path) {
  std::error_code error;
  const auto real = std::filesystem::canonical(path, error);
  const bool is_file = !error && std::filesystem::is_regular_file(real, error);
  if (error) return unusable(path, "cannot be read: {}", error.message());
  if (!is_file) return unusable(path, "is not a file");
  return real.string();
}

// What the loader says, without the path where that is the module's own.
std::string loader_error(const std::string& path) {
  const char* text = ::dlerror();
  std::string_view error = text == nullptr ? "no reason was given" : text;
  if (error.starts_with(path + ": ")) error.remove_prefix(path.size() + 2);
  return std::string(error);
}

Status check(const CudaModule* module, const std::string& path) {
  if (module == nullptr) return unusable(path, "gives no interface");
  if (module->abi != kCudaModuleAbi) {
    return unusable(path, "has interface {}, this gpu_server has {}: both must be of one build",
                    module->abi, kCudaModuleAbi);
  }
  if (module->version == nullptr || std::string_view(module->version) != kVersion) {
    return unusable(path, "is of release {}, this gpu_server is of {}: both must be of one build",
                    module->version == nullptr ? "none" : module->version, kVersion);
  }
  if (module->create == nullptr) return unusable(path, "lacks a function: create");
  return {};
}

}  // namespace

Result<const CudaModule*> load_cuda_module(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string wanted, path.empty() ? find_file() : path);
  ASSIGN_OR_RETURN(const std::string file, real_file(wanted));
  void* library = ::dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return unusable(file, "does not load: {}", loader_error(file));
  const auto entry = reinterpret_cast<CudaModuleEntry>(::dlsym(library, kCudaModuleEntry));
  if (entry == nullptr) {
    return unusable(file, "is no module of Airlock's: it has no {}", kCudaModuleEntry);
  }
  const CudaModule* module = entry();
  RETURN_IF_ERROR(check(module, file));
  return module;
}

}  // namespace airlock
