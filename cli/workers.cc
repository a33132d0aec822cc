#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "cli/commands.h"
#include "cli/connection.h"
#include "cli/output.h"
#include "common/base/status.h"

namespace lathe::cli {

absl::StatusOr<int> WorkersList(const GlobalOptions& global) {
  LATHE_ASSIGN_OR_RETURN(const auto connection, Connection::Open(global));
  grpc::ClientContext context;
  connection->Prepare(context);
  v1::ListWorkersResponse response;
  LATHE_RETURN_IF_ERROR(FromService(connection->fleet().ListWorkers(&context, {}, &response)));
  if (global.json) {
    PrintJson(response);
    return kDone;
  }
  std::vector<std::vector<std::string>> rows;
  for (const v1::Worker& worker : response.workers()) {
    rows.push_back({worker.name(), worker.state(),
                    absl::StrCat(worker.free_slots(), "/", worker.slots(), " ", worker.slot_kind()),
                    worker.id(), absl::StrJoin(worker.assignments(), ", ")});
  }
  PrintTable({"NAME", "STATE", "FREE SLOTS", "ID", "RUNS"}, rows);
  return kDone;
}

}  // namespace lathe::cli
