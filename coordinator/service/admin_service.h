#pragma once

#include <filesystem>
#include <utility>

#include "common/base/clock.h"
#include "coordinator/backup/backup.h"
#include "coordinator/service/coordinator.h"
#include "lathe/v1/admin.grpc.pb.h"

namespace lathe {

// lathe.v1.AdminService. Thread-safe; what it is given outlives the server.
class AdminServiceImpl final : public v1::AdminService::Service {
 public:
  // Backups lie below `root`, and nowhere else.
  AdminServiceImpl(Coordinator& coordinator, BackupSource source, std::filesystem::path root,
                   const Clock& clock)
      : coordinator_(coordinator),
        source_(std::move(source)),
        root_(std::move(root)),
        clock_(clock) {}

  grpc::Status CreateBackup(grpc::ServerContext* context, const v1::CreateBackupRequest* request,
                            grpc::ServerWriter<v1::CreateBackupResponse>* writer) override;

 private:
  Coordinator& coordinator_;
  const BackupSource source_;
  const std::filesystem::path root_;
  const Clock& clock_;
};

}  // namespace lathe
