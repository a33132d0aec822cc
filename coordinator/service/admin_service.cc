#include "coordinator/service/admin_service.h"

#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/rpc/status.h"

namespace lathe {
namespace {

constexpr absl::Duration kProgressInterval = absl::Seconds(1);

// False: the client has gone.
using Writer = grpc::ServerWriter<v1::CreateBackupResponse>;
bool Tell(Writer& writer, const BackupProgress& progress) {
  v1::CreateBackupResponse response;
  response.mutable_progress()->set_phase(progress.phase);
  response.mutable_progress()->set_bytes_done(progress.bytes_done);
  response.mutable_progress()->set_bytes_total(progress.bytes_total);
  return writer.Write(response);
}

v1::Backup Describe(const std::string& name, const std::filesystem::path& path,
                    const BackupManifest& manifest) {
  v1::Backup backup;
  backup.set_name(name);
  backup.set_path(path.string());
  backup.set_jobs(manifest.jobs);
  backup.set_files(static_cast<int64_t>(manifest.files.size()));
  backup.set_bytes(manifest.TotalBytes());
  return backup;
}

}  // namespace

grpc::Status AdminServiceImpl::CreateBackup(grpc::ServerContext* context,
                                            const v1::CreateBackupRequest* request,
                                            Writer* writer) {
  const Coordinator::KeptBlobs kept(coordinator_);
  absl::Time told = absl::InfinitePast();
  const auto manifest = WriteBackup(source_, root_, request->name(), clock_.Now(),
                                    [&](const BackupProgress& progress) {
                                      if (context->IsCancelled()) return false;
                                      if (clock_.Now() - told < kProgressInterval) return true;
                                      told = clock_.Now();
                                      return Tell(*writer, progress);
                                    });
  if (!manifest.ok()) return ToGrpc(manifest.status());
  v1::CreateBackupResponse response;
  *response.mutable_backup() = Describe(request->name(), root_ / request->name(), *manifest);
  LogInfo(absl::StrCat("backup ", response.backup().path(), ": ", manifest->files.size(),
                       " files, ", manifest->TotalBytes(), " bytes"));
  writer->Write(response);
  return grpc::Status::OK;
}

}  // namespace lathe
