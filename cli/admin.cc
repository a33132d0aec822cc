#include <unistd.h>

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "cli/commands.h"
#include "cli/connection.h"
#include "cli/output.h"
#include "cli/process.h"
#include "cli/progress.h"
#include "cli/terminal.h"
#include "common/base/file.h"
#include "common/base/human.h"
#include "common/base/status.h"
#include "common/config/environment.h"

// Backup through the service; restore, where there is none yet, through its program.

namespace lathe::cli {
namespace {

std::string Line(const v1::BackupProgress& progress) {
  if (progress.bytes_total() == 0) return absl::StrCat("backup: ", progress.phase());
  return absl::StrCat("backup: ", progress.phase(), " ", HumanBytes(progress.bytes_done()), " of ",
                      HumanBytes(progress.bytes_total()));
}

void Print(const v1::Backup& backup) {
  absl::PrintF(
      "%s: %d jobs, %d files, %s, verified\nrestore it with: lathe admin restore %s --data NEW\n",
      backup.path(), backup.jobs(), backup.files(), HumanBytes(backup.bytes()), backup.path());
}

}  // namespace

absl::StatusOr<int> AdminBackup(const GlobalOptions& global, const std::string& folder) {
  LATHE_ASSIGN_OR_RETURN(const auto connection, Connection::Open(global));
  grpc::ClientContext context;
  connection->Prepare(context, absl::InfiniteDuration());
  v1::CreateBackupRequest request;
  request.set_name(folder);
  const auto reader = connection->admin().CreateBackup(&context, request);
  Progress progress(IsTerminal(STDERR_FILENO));
  v1::CreateBackupResponse response;
  v1::Backup backup;
  while (reader->Read(&response)) {
    if (global.json) PrintJson(response);
    if (response.has_backup()) {
      backup = response.backup();
    } else if (!global.json) {
      progress.Show(Line(response.progress()), absl::Now());
    }
  }
  progress.Clear();
  LATHE_RETURN_IF_ERROR(FromService(reader->Finish()));
  if (!global.json) Print(backup);
  return kDone;
}

absl::StatusOr<int> AdminRestore(const GlobalOptions& global, const RestoreOptions& options) {
  LATHE_RETURN_IF_ERROR(Annotate(RequireNewOrEmptyFolder(options.data), "--data"));
  std::vector<std::string> program = {(ProgramFolder() / "lathe-coordinator").string(), "--restore",
                                      options.backup.string(), "--data-dir",
                                      CoordinatorDir(options.data).string()};
  if (global.json) program.push_back("--json");
  LATHE_ASSIGN_OR_RETURN(const int status, RunAndWait(std::move(program)));
  if (status != 0) return kFailed;  // It has said why.
  if (!global.json) {
    absl::PrintF("start it with: lathe up --data-dir %s\n", options.data.string());
  }
  return kDone;
}

}  // namespace lathe::cli
