#include "gpu_server/cuda_probe.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <grp.h>
#include <sys/stat.h>

#include <array>
#include <cerrno>
#include <cstdlib>

#include "base/unique_fd.h"

namespace airlock {

namespace {

constexpr const char* kDriverLibrary = "libcuda.so.1";
constexpr int kNoDevice = 100;  // CUDA_ERROR_NO_DEVICE
constexpr int kMostDevices = 1024;

// The driver's own functions, of which no header is needed here: CUresult and CUdevice are ints.
struct Driver {
  int (*init)(unsigned flags) = nullptr;
  int (*device_count)(int* count) = nullptr;
  int (*device)(int* device, int ordinal) = nullptr;
  int (*device_name)(char* name, int bytes, int device) = nullptr;
  int (*error_name)(int error, const char** name) = nullptr;

  std::string name_of(int error) const {
    const char* name = nullptr;
    return error_name(error, &name) == 0 && name != nullptr ? name : "";
  }
};

template <typename Function>
Status find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(::dlsym(library, name));
  if (function != nullptr) return {};
  return {StatusCode::kDevice, "{} is no NVIDIA driver library: it has no {}", kDriverLibrary,
          name};
}

Result<Driver> open_driver() {
  void* library = ::dlopen(kDriverLibrary, RTLD_NOW | RTLD_LOCAL);  // never closed
  if (library == nullptr) {
    return Status(StatusCode::kDevice, "there is no NVIDIA driver ({})", ::dlerror());
  }
  Driver driver;
  RETURN_IF_ERROR(find(library, "cuInit", driver.init));
  RETURN_IF_ERROR(find(library, "cuDeviceGetCount", driver.device_count));
  RETURN_IF_ERROR(find(library, "cuDeviceGet", driver.device));
  RETURN_IF_ERROR(find(library, "cuDeviceGetName", driver.device_name));
  RETURN_IF_ERROR(find(library, "cuGetErrorName", driver.error_name));
  return driver;
}

Status no_device() {
  const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
  return {StatusCode::kDevice,
          visible == nullptr
              ? "the NVIDIA driver finds no device"
              : fmt::format("the NVIDIA driver finds no device (CUDA_VISIBLE_DEVICES is '{}')",
                            visible)};
}

std::string numbered(int error, std::string_view name) {
  return name.empty() ? fmt::format("error {}", error) : fmt::format("error {}, {}", error, name);
}

Status check(const Driver& driver, const char* function, int error) {
  if (error == 0) return {};
  return {StatusCode::kDevice, "the NVIDIA driver does not work: {} gave {}", function,
          numbered(error, driver.name_of(error))};
}

// How a user gets the right to open a file of this group.
std::string remedy(const struct stat& info) {
  constexpr mode_t kGroupMayUse = S_IRGRP | S_IWGRP;
  if ((info.st_mode & kGroupMayUse) != kGroupMayUse)
    return fmt::format("only its owner may, mode {:04o}", info.st_mode & 07777U);
  const struct group* group = ::getgrgid(info.st_gid);
  return group == nullptr ? fmt::format("this user must be in group {}", info.st_gid)
                          : fmt::format("this user must be in group '{}'", group->gr_name);
}

}  // namespace

Status explain_cuda_start(int error, std::string_view name,
                          std::span<const std::string> device_files) {
  for (const std::string& file : device_files) {
    struct stat info {};
    if (::stat(file.c_str(), &info) != 0) continue;
    // Opened as the driver does: a container may forbid what the file's mode allows.
    const UniqueFd fd(::open(file.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
    if (fd.valid()) continue;
    if (errno == EACCES) {
      return {StatusCode::kDevice,
              "no permission to use the GPU: {} cannot be opened for reading and writing; {}", file,
              remedy(info)};
    }
    if (errno == EPERM) {
      return {StatusCode::kDevice,
              "no permission to use the GPU: {} cannot be opened for reading and writing; the "
              "container must be given the device",
              file};
    }
  }
  if (error == kNoDevice) return no_device();
  return {StatusCode::kDevice, "the NVIDIA driver does not start: cuInit gave {}",
          numbered(error, name)};
}

Result<std::vector<std::string>> probe_cuda() {
  ASSIGN_OR_RETURN(const Driver driver, open_driver());
  if (const int error = driver.init(0); error != 0) {
    const std::array<std::string, 3> files{"/dev/nvidiactl", "/dev/nvidia0", "/dev/nvidia-uvm"};
    return explain_cuda_start(error, driver.name_of(error), files);
  }
  int count = 0;
  const int counted = driver.device_count(&count);
  if (counted == kNoDevice) return no_device();
  RETURN_IF_ERROR(check(driver, "cuDeviceGetCount", counted));
  if (count <= 0 || count > kMostDevices) return no_device();
  std::vector<std::string> devices;
  for (int ordinal = 0; ordinal < count; ++ordinal) {
    int device = 0;
    RETURN_IF_ERROR(check(driver, "cuDeviceGet", driver.device(&device, ordinal)));
    std::array<char, 256> name{};
    const int named = driver.device_name(name.data(), static_cast<int>(name.size()), device);
    RETURN_IF_ERROR(check(driver, "cuDeviceGetName", named));
    name.back() = '\0';
    devices.push_back(fmt::format("cuda:{} {}", ordinal, name.data()));
  }
  return devices;
}

}  // namespace airlock
