#include "gpu_server/cuda_module.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <string_view>
#include <system_error>

#include "base/version.h"

namespace airlock {

namespace {

constexpr const char* kFileName = "airlock_cuda.so";

Status unusable(const std::string& path, std::string_view why) {
  return {StatusCode::kDevice, "the CUDA module {} {}", path, why};
}

Result<std::string> executable_directory() {
  std::array<char, PATH_MAX> link{};
  const ssize_t size = ::readlink("/proc/self/exe", link.data(), link.size() - 1);
  if (size <= 0) {
    return Status(StatusCode::kDevice,
                  "the CUDA module is not found: /proc/self/exe: {}; name it with --cuda-module",
                  std::generic_category().message(errno));
  }
  const std::string_view executable(link.data(), static_cast<std::size_t>(size));
  return std::string(executable.substr(0, executable.rfind('/')));
}

Result<std::string> find_file() {
  ASSIGN_OR_RETURN(const std::string directory, executable_directory());
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
  std::array<char, PATH_MAX> real{};
  struct stat info {};
  if (::realpath(path.c_str(), real.data()) == nullptr || ::stat(real.data(), &info) != 0)
    return unusable(path, "cannot be read: " + std::generic_category().message(errno));
  if (!S_ISREG(info.st_mode)) return unusable(path, "is not a file");
  return std::string(real.data());
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
    return unusable(
        path, fmt::format("has interface {}, this gpu_server has {}: both must be of one build",
                          module->abi, kCudaModuleAbi));
  }
  if (module->version == nullptr || std::string_view(module->version) != kVersion) {
    return unusable(
        path, fmt::format("is of release {}, this gpu_server is of {}: both must be of one build",
                          module->version == nullptr ? "none" : module->version, kVersion));
  }
  if (module->create == nullptr) return unusable(path, "lacks a function: create");
  return {};
}

}  // namespace

Result<const CudaModule*> load_cuda_module(const std::string& path) {
  std::string wanted = path;
  if (wanted.empty()) {
    ASSIGN_OR_RETURN(wanted, find_file());
  }
  ASSIGN_OR_RETURN(const std::string file, real_file(wanted));
  void* library = ::dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return unusable(file, "does not load: " + loader_error(file));
  const auto entry = reinterpret_cast<CudaModuleEntry>(::dlsym(library, kCudaModuleEntry));
  if (entry == nullptr) {
    return unusable(file, fmt::format("is no module of Airlock's: it has no {}", kCudaModuleEntry));
  }
  const CudaModule* module = entry();
  RETURN_IF_ERROR(check(module, file));
  return module;
}

}  // namespace airlock
