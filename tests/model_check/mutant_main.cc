// One mutant of the ring's sources, which CMakeLists.txt put in the place of the true one. 0 where
// it is caught.
#include <filesystem>

#include "tests/model_check/ring_rig.h"

int main(int, char** argv) {
  using airlock::model_check::Mutant;
  return airlock::model_check::is_caught(std::filesystem::path(argv[0]).filename(), Mutant::kNone)
             ? 0
             : 1;
}
