#pragma once

#include <cstdint>
#include <string>

// Numbers for people.

namespace lathe {

std::string HumanBytes(int64_t bytes);  // "93.8 MiB".

}  // namespace lathe
