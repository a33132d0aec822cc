#pragma once

#include <cstdint>

namespace lathe {

// Settings of a process that runs the engine, before its first tensor. `threads` below 1 count
// as 1.
void SetUpTorchProcess(int64_t threads);

}  // namespace lathe
