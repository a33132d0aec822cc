#include "worker/engine/dist/nccl_plugin.h"

#include <dlfcn.h>

#include <system_error>

#include "absl/strings/str_cat.h"

namespace lathe {
namespace {

absl::Status LoaderError(const std::filesystem::path& library) {
  const char* words = dlerror();
  return absl::FailedPreconditionError(absl::StrCat("NCCL plugin ", library.string(), ": ",
                                                    words == nullptr ? "cannot be opened" : words,
                                                    "; needs what scripts/setup --cuda installs"));
}

}  // namespace

absl::StatusOr<NcclPlugin*> OpenNcclPlugin(const std::filesystem::path& library) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(library, error)) {
    return absl::NotFoundError(absl::StrCat("NCCL plugin ", library.string(),
                                            ": there is no such file; build it with scripts/test "
                                            "--cuda"));
  }
  // Never closed: libtorch's CUDA part cannot be unloaded.
  // A name without a slash would be looked for on the loader's path.
  void* handle = dlopen(std::filesystem::absolute(library, error).c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) return LoaderError(library);
  auto* version = reinterpret_cast<int (*)()>(dlsym(handle, kNcclPluginVersionSymbol));
  auto* plugin = reinterpret_cast<NcclPlugin* (*)()>(dlsym(handle, kNcclPluginSymbol));
  if (version == nullptr || plugin == nullptr) return LoaderError(library);
  if (version() != kNcclPluginVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat("NCCL plugin ", library.string(), ": has version ", version(), "; must be ",
                     kNcclPluginVersion, ", that of this program"));
  }
  return plugin();
}

std::filesystem::path DefaultNcclPluginPath() {
  std::error_code error;
  return std::filesystem::read_symlink("/proc/self/exe", error).parent_path() / "liblathe_nccl.so";
}

}  // namespace lathe
