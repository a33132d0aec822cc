#pragma once

#include <cstdint>

namespace lathe {

// What this process and its children may use: the smaller of the machine's memory and the limit of
// its control group. 0: unknown.
int64_t MachineMemoryBytes();

// How many processes the kernel has killed since it started because memory ran out.
int64_t NumOomKills();

}  // namespace lathe
