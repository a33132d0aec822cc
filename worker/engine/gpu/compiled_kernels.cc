#include "worker/engine/gpu/compiled_kernels.h"

#include <nvrtc.h>

#include <array>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "worker/engine/gpu/kernel_source.h"
#include "worker/formats/nf4.h"

namespace lathe {
namespace {

template <size_t N>
std::string Table(const char* name, const std::array<float, N>& values) {
  const auto hex = [](std::string* out, float value) { absl::StrAppendFormat(out, "%af", value); };
  return absl::StrCat("__device__ const float ", name, "[] = {", absl::StrJoin(values, ", ", hex),
                      "};\n");
}

std::string Source() {
  return absl::StrCat(Table("kNf4Codes", Nf4Codes()), Table("kDynamicMap", DynamicMap()),
                      kKernelSource);
}

struct DestroyProgram {
  void operator()(nvrtcProgram program) const { nvrtcDestroyProgram(&program); }
};
using Program = std::unique_ptr<std::remove_pointer_t<nvrtcProgram>, DestroyProgram>;

absl::Status Fault(absl::string_view what) {
  return absl::InternalError(absl::StrCat("GPU kernels: ", what));
}

std::string LogOf(const Program& program) {
  size_t size = 0;
  if (nvrtcGetProgramLogSize(program.get(), &size) != NVRTC_SUCCESS || size == 0) return "";
  std::string log(size, '\0');
  nvrtcGetProgramLog(program.get(), log.data());
  return log;
}

}  // namespace

absl::StatusOr<std::string> CompileKernels(int major, int minor) {
  const std::string source = Source();
  nvrtcProgram made = nullptr;
  nvrtcResult result = nvrtcCreateProgram(&made, source.c_str(), "kernels.cu", 0, nullptr, nullptr);
  if (result != NVRTC_SUCCESS) return Fault(nvrtcGetErrorString(result));
  const Program program(made);
  const std::string target = absl::StrCat("--gpu-architecture=sm_", major, minor);
  const std::array<const char*, 2> options = {target.c_str(), "--std=c++17"};
  result = nvrtcCompileProgram(made, options.size(), options.data());
  if (result != NVRTC_SUCCESS) {
    return Fault(absl::StrCat(nvrtcGetErrorString(result), " for ", target, ": ", LogOf(program)));
  }
  size_t size = 0;
  result = nvrtcGetCUBINSize(made, &size);
  std::string code(size, '\0');
  if (result == NVRTC_SUCCESS) result = nvrtcGetCUBIN(made, code.data());
  if (result != NVRTC_SUCCESS) return Fault(nvrtcGetErrorString(result));
  return code;
}

}  // namespace lathe
