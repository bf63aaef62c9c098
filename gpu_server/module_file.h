#pragma once

#include <cstdint>
#include <string>

#include "airlock_module_abi.h"  // made by cmake/AirlockOptions.cmake
#include "base/status.h"

namespace airlock {

/// Of the headers whose types cross between gpu_server and its modules, and of the compiler: a
/// module that was built from others is refused.
inline constexpr std::uint32_t kModuleAbi = AIRLOCK_MODULE_ABI;

/// How what a module exports begins.
struct ModuleHead {
  std::uint32_t abi = 0;          // kModuleAbi
  const char* version = nullptr;  // the release, base/version.h
};

/// A library that gpu_server loads where it is needed, and links nothing of.
struct ModuleKind {
  const char* title;      // "CUDA module"
  const char* file_name;  // "airlock_cuda.so"
  const char* option;     // that names another
  const char* entry;      // gives a pointer to what the module exports, a ModuleHead first
  const char* to_build;   // "build where cmake finds the CUDA toolkit"
};

/// Loads the file at `path`, or, where that is empty, the one beside this executable or in
/// ../lib/airlock; it stays loaded. Gives its entry. kDevice: one sentence that says what is
/// lacking (the file, a library that it needs).
Result<void*> find_module_entry(const ModuleKind& kind, const std::string& path);
/// kDevice: `head` is null, or not of this build.
Status check_module(const ModuleKind& kind, const std::string& path, const ModuleHead* head);

/// Both; `Module` is a ModuleHead.
template <typename Module>
Result<const Module*> load_module(const ModuleKind& kind, const std::string& path) {
  ASSIGN_OR_RETURN(void* const entry, find_module_entry(kind, path));
  const Module* module = reinterpret_cast<const Module* (*)()>(entry)();
  RETURN_IF_ERROR(check_module(kind, path, module));
  return module;
}

}  // namespace airlock
