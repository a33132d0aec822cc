#include "worker/trainer/torch_process.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <malloc.h>

#include <algorithm>
#include <limits>

namespace lathe {

void SetUpTorchProcess(int64_t threads) {
  // On GPUs: parts of a long sum are added in 32 bits, as the sum itself is.
  at::globalContext().setAllowBF16ReductionCuBLAS(false);
  at::set_num_threads(static_cast<int>(std::max<int64_t>(1, threads)));
  // glibc gives large blocks back to the kernel and gets them again, page by page, several hundred
  // times a step: 9 % of a small model's step (page faults, measured) for 1 % of its peak memory.
  mallopt(M_MMAP_THRESHOLD, std::numeric_limits<int>::max());
  mallopt(M_TRIM_THRESHOLD, std::numeric_limits<int>::max());
}

}  // namespace lathe
