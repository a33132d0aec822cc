#pragma once

#include <functional>

#include "absl/status/status.h"

namespace lathe {

// The engine's door: runs `body` and turns what libtorch throws into a Status with one line.
// c10::OutOfMemoryError and std::bad_alloc are ResourceExhausted, a value that libtorch refuses
// (c10::ValueError, c10::IndexError) InvalidArgument, the rest Internal.
absl::Status CatchTorch(const std::function<absl::Status()>& body);

}  // namespace lathe
