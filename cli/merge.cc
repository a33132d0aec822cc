#include "cli/merge.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cli/process.h"
#include "cli/transfer.h"
#include "common/base/exit_codes.h"
#include "common/base/status.h"
#include "common/config/environment.h"

namespace lathe::cli {
namespace {

std::vector<std::string> Arguments(const MergeRequest& request) {
  std::vector<std::string> arguments = {(ProgramFolder() / "lathe-prepare").string(), "merge"};
  const auto add = [&](const char* flag, const std::string& value) {
    if (!value.empty()) arguments.insert(arguments.end(), {flag, value});
  };
  add("--base", request.base.string());
  add("--adapter", request.adapter.string());
  add("--out", request.to.string());
  if (request.gguf.empty()) {
    add("--dtype", request.dtype);
    add("--shard-size", request.shard_size);
  } else {
    add("--gguf", request.gguf);
    add("--name", request.name);
  }
  return arguments;
}

}  // namespace

absl::Status MergeFolders(const MergeRequest& request) {
  LATHE_ASSIGN_OR_RETURN(const int status, RunAndWait(Arguments(request)));
  if (status == 0) {
    if (request.gguf.empty()) MakePublic(request.to);  // A file is public already.
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(
      absl::StrCat("merging did not succeed: lathe-prepare ", DescribeExit(status)));
}

}  // namespace lathe::cli
