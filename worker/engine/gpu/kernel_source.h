#pragma once

namespace lathe {

// The text of kernels.cu; written by the build.
extern const char kKernelSource[];

}  // namespace lathe
