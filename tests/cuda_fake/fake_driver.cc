// A stand-in for the NVIDIA driver library, as far as gpu_server asks it: libcuda.so.1 in a folder
// of its own, for LD_LIBRARY_PATH. The environment says what it answers:
//   AIRLOCK_FAKE_DRIVER_INIT     what cuInit gives (unset: 0, or 100 where there is no device)
//   AIRLOCK_FAKE_DRIVER_HANG     anything: cuInit says so on stderr and never returns
//   AIRLOCK_FAKE_DRIVER_DEVICES  how many devices there are (unset: 1)

#include <unistd.h>

#include <cstdio>
#include <cstdlib>

namespace {

constexpr int kInvalidValue = 1;
constexpr int kNotInitialised = 3;
constexpr int kNoDevice = 100;
constexpr int kInvalidDevice = 101;

bool started = false;

int number(const char* name, int otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::atoi(text);
}

int devices() { return number("AIRLOCK_FAKE_DRIVER_DEVICES", 1); }

}  // namespace

extern "C" {

int cuInit(unsigned flags) {
  if (flags != 0) return kInvalidValue;
  if (std::getenv("AIRLOCK_FAKE_DRIVER_HANG") != nullptr) {
    std::fputs("fake driver: cuInit hangs\n", stderr);
    for (;;) ::pause();
  }
  const int error = number("AIRLOCK_FAKE_DRIVER_INIT", devices() == 0 ? kNoDevice : 0);
  started = error == 0;
  return error;
}

int cuDeviceGetCount(int* count) {
  if (!started) return kNotInitialised;
  *count = devices();
  return 0;
}

int cuDeviceGet(int* device, int ordinal) {
  if (!started) return kNotInitialised;
  if (ordinal < 0 || ordinal >= devices()) return kInvalidDevice;
  *device = ordinal + 40;  // a device is no ordinal
  return 0;
}

int cuDeviceGetName(char* name, int bytes, int device) {
  if (!started) return kNotInitialised;
  if (device < 40 || device >= 40 + devices()) return kInvalidDevice;
  std::snprintf(name, static_cast<std::size_t>(bytes), "NVIDIA Fake");
  return 0;
}

int cuGetErrorName(int error, const char** name) {
  *name = nullptr;
  switch (error) {
    case kInvalidValue:
      *name = "CUDA_ERROR_INVALID_VALUE";
      return 0;
    case kNotInitialised:
      *name = "CUDA_ERROR_NOT_INITIALIZED";
      return 0;
    case kNoDevice:
      *name = "CUDA_ERROR_NO_DEVICE";
      return 0;
    case kInvalidDevice:
      *name = "CUDA_ERROR_INVALID_DEVICE";
      return 0;
    case 803:
      *name = "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH";
      return 0;
    case 999:
      *name = "CUDA_ERROR_UNKNOWN";
      return 0;
    default:
      return kInvalidValue;
  }
}

}  // extern "C"
