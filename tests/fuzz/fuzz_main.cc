// libFuzzer's doors. LATHE_FUZZ_TARGET names the target; scripts/fuzz sets it.

#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "tests/fuzz/fuzz_targets.h"

namespace {

const lathe::FuzzTarget* target = nullptr;

}  // namespace

extern "C" int LLVMFuzzerInitialize(int* /*argc*/, char*** /*argv*/) {
  const char* name = std::getenv("LATHE_FUZZ_TARGET");
  target = lathe::FindFuzzTarget(name == nullptr ? "" : name);
  if (target != nullptr) return 0;
  std::fprintf(stderr, "error: LATHE_FUZZ_TARGET is '%s'; allowed are",
               name == nullptr ? "" : name);
  for (const lathe::FuzzTarget& known : lathe::FuzzTargets()) {
    std::fprintf(stderr, " %s", std::string(known.name).c_str());
  }
  std::fprintf(stderr, "\n");
  std::exit(64);
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  target->run({reinterpret_cast<const char*>(data), size});
  return 0;
}
