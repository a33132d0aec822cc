#include "coordinator/service/tasks.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/sha256.h"
#include "common/spec_proto/job_spec_proto.h"
#include "coordinator/service/convert.h"

namespace lathe {
namespace {

constexpr int64_t kDefaultMaxLength = 2048;

// Named after the data set: errors name the file.
FileTree DataTree(const std::string& name, const BlobRef& blob) { return {{name, blob}}; }

internal::v1::Assignment Common(const Assignment& assignment, int threads_per_slot) {
  internal::v1::Assignment proto;
  proto.set_id(assignment.id.value());
  proto.set_job_id(assignment.owner);
  proto.set_attempt(assignment.attempt);
  proto.set_slots(assignment.slots);
  proto.mutable_task()->set_threads(int64_t{std::max(1, threads_per_slot)} *
                                    std::max(1, assignment.slots));
  return proto;
}

}  // namespace

internal::v1::Assignment JobAssignment(const Assignment& assignment, const Job& job,
                                       const FileTree& shards, int threads_per_slot) {
  internal::v1::Assignment proto = Common(assignment, threads_per_slot);
  proto.mutable_task()->set_job_id(assignment.owner);
  proto.mutable_task()->set_attempt(assignment.attempt);
  (*proto.mutable_inputs())["model"] = ToProto(job.base.files);
  if (assignment.role == kStagePrepare) {
    internal::v1::PrepareTask* task = proto.mutable_task()->mutable_prepare();
    task->set_format(job.dataset_format);
    *task->mutable_spec() = ToProto(job.spec);
    (*proto.mutable_inputs())["data"] = ToProto(DataTree(job.spec.dataset, job.dataset_blob));
    return proto;
  }
  internal::v1::TrainTask* task = proto.mutable_task()->mutable_train();
  *task->mutable_spec() = ToProto(job.spec);
  task->set_rank(assignment.rank);
  task->set_world_size(assignment.world_size);
  task->set_rendezvous_fd(-1);
  (*proto.mutable_inputs())["shards"] = ToProto(shards);
  if (!job.checkpoint.files.empty()) {
    (*proto.mutable_inputs())["resume"] = ToProto(job.checkpoint.files);
  }
  if (!job.parent.files.empty()) (*proto.mutable_inputs())["parent"] = ToProto(job.parent.files);
  return proto;
}

internal::v1::Assignment ErrandAssignment(const Assignment& assignment, const ErrandTask& errand,
                                          int threads_per_slot) {
  internal::v1::Assignment proto = Common(assignment, threads_per_slot);
  const int64_t threads = proto.task().threads();
  *proto.mutable_task() = errand.task;
  proto.mutable_task()->set_threads(threads);
  proto.mutable_task()->set_job_id(assignment.owner);
  proto.mutable_task()->set_attempt(assignment.attempt);
  for (const auto& [name, tree] : errand.inputs) (*proto.mutable_inputs())[name] = ToProto(tree);
  return proto;
}

ErrandTask ImportErrand(const FileTree& source) {
  ErrandTask errand;
  errand.task.mutable_import();
  errand.inputs["source"] = source;
  return errand;
}

ErrandTask CheckErrand(const Dataset& dataset, const FileTree& model, int64_t max_length) {
  ErrandTask errand;
  internal::v1::CheckTask* task = errand.task.mutable_check();
  task->set_format(dataset.format);
  task->set_max_length(max_length == 0 ? kDefaultMaxLength : max_length);
  errand.inputs["data"] = DataTree(dataset.name, dataset.blob);
  if (!model.empty()) errand.inputs["model"] = model;
  return errand;
}

ErrandTask PreviewErrand(const Dataset& dataset, const FileTree& model, int64_t row,
                         int64_t max_length) {
  ErrandTask errand;
  internal::v1::PreviewTask* task = errand.task.mutable_preview();
  task->set_format(dataset.format);
  task->set_row(row);
  task->set_max_length(max_length == 0 ? kDefaultMaxLength : max_length);
  errand.inputs["data"] = DataTree(dataset.name, dataset.blob);
  errand.inputs["model"] = model;
  return errand;
}

ErrandTask ServeErrand(const FileTree& model, const std::string& base_storage) {
  ErrandTask errand;
  errand.task.mutable_serve()->set_base_storage(base_storage);
  errand.inputs["model"] = model;
  return errand;
}

std::string ShardKey(const Job& job) {
  FileTree text_files;
  for (const FileRef& file : job.base.files) {
    if (!absl::EndsWith(file.path, ".safetensors")) text_files.push_back(file);
  }
  // The number grows with every change that gives other shards for the same input.
  return Sha256Hex(absl::StrCat("shards-v2 ", job.dataset_blob.sha256, " ", job.dataset_format, " ",
                                TreeSha256(text_files), " ", job.spec.method, " ",
                                job.spec.max_length, " ", job.spec.on_too_long, " ",
                                job.spec.validation_fraction, " ", job.spec.seed));
}

}  // namespace lathe
