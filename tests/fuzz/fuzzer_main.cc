// libFuzzer's entry for every target: AIRLOCK_FUZZ_TARGET in the environment names the one that is
// fuzzed. (A name on the command line would be lost where libFuzzer starts itself again.)
// tools/fuzz runs it.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "tests/fuzz/target.h"

namespace {

const airlock::fuzz::Target* chosen = nullptr;

/// Writes each target's seeds into a folder of its name below `directory`.
void write_seeds(const std::filesystem::path& directory) {
  for (const airlock::fuzz::Target& target : airlock::fuzz::targets()) {
    const std::filesystem::path folder = directory / target.name;
    std::filesystem::create_directories(folder);
    std::size_t number = 0;
    for (const airlock::fuzz::Bytes& seed : target.seeds()) {
      std::ofstream(folder / ("seed-" + std::to_string(number++)), std::ios::binary)
          << airlock::fuzz::text_of(seed);
    }
    std::printf("%s\n", std::string(target.name).c_str());
  }
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  if (const char* const directory = std::getenv("AIRLOCK_FUZZ_WRITE_SEEDS")) {
    write_seeds(directory);
    std::exit(0);
  }
  const char* const name = std::getenv("AIRLOCK_FUZZ_TARGET");
  chosen = airlock::fuzz::find_target(name == nullptr ? "" : name);
  if (chosen != nullptr) return 0;
  std::fprintf(stderr, "AIRLOCK_FUZZ_TARGET has to name a target:");
  for (const airlock::fuzz::Target& target : airlock::fuzz::targets())
    std::fprintf(stderr, " %s", std::string(target.name).c_str());
  std::fprintf(stderr, "\n");
  std::exit(2);
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  (void)chosen->run({reinterpret_cast<const std::byte*>(data), size});
  return 0;
}
