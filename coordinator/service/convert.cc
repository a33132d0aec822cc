#include "coordinator/service/convert.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/sha256.h"
#include "common/base/status.h"
#include "common/blob/blob_store.h"
#include "common/spec_proto/job_spec_proto.h"

namespace lathe {

google::protobuf::Timestamp ToProto(absl::Time time) {
  google::protobuf::Timestamp proto;
  const int64_t seconds = absl::ToUnixSeconds(time);
  proto.set_seconds(seconds);
  proto.set_nanos(
      static_cast<int32_t>(absl::ToInt64Nanoseconds(time - absl::FromUnixSeconds(seconds))));
  return proto;
}

google::protobuf::Duration ToProto(absl::Duration duration) {
  google::protobuf::Duration proto;
  proto.set_seconds(absl::IDivDuration(duration, absl::Seconds(1), &duration));
  proto.set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(duration)));
  return proto;
}

absl::Duration FromProto(const google::protobuf::Duration& duration) {
  return absl::Seconds(duration.seconds()) + absl::Nanoseconds(duration.nanos());
}

v1::BlobRef ToProto(const BlobRef& blob) {
  v1::BlobRef proto;
  proto.set_sha256(blob.sha256);
  proto.set_size(blob.size);
  return proto;
}

BlobRef FromProto(const v1::BlobRef& blob) { return {blob.sha256(), blob.size()}; }

absl::Status ValidatePath(absl::string_view path) {
  bool good = IsPathBelow(path) && path.size() <= 255;
  for (const char c : path) good = good && static_cast<unsigned char>(c) >= 0x20 && c != '\\';
  if (good) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("path of file is '", path.substr(0, 80),
                   "'; must be relative, at most 255 bytes, without empty parts, '.' or '..'"));
}

v1::FileTree ToProto(const FileTree& tree) {
  v1::FileTree proto;
  for (const FileRef& file : tree) {
    v1::FileRef* entry = proto.add_files();
    entry->set_path(file.path);
    *entry->mutable_blob() = ToProto(file.blob);
  }
  return proto;
}

absl::StatusOr<FileTree> FromProto(const v1::FileTree& proto) {
  if (proto.files_size() > kMaxTreeFiles) {
    return absl::InvalidArgumentError(
        absl::StrCat("folder has ", proto.files_size(), " files; at most ", kMaxTreeFiles));
  }
  FileTree tree;
  for (const v1::FileRef& file : proto.files()) {
    LATHE_RETURN_IF_ERROR(ValidatePath(file.path()));
    tree.push_back({file.path(), FromProto(file.blob())});
    LATHE_RETURN_IF_ERROR(Validate(tree.back().blob));
  }
  const auto by_path = [](const FileRef& a, const FileRef& b) { return a.path < b.path; };
  std::sort(tree.begin(), tree.end(), by_path);
  const auto same = std::adjacent_find(
      tree.begin(), tree.end(), [](const auto& a, const auto& b) { return a.path == b.path; });
  if (same == tree.end()) return tree;
  return absl::InvalidArgumentError(absl::StrCat("folder has file '", same->path, "' twice"));
}

std::string TreeSha256(const FileTree& tree) {
  Sha256 hash;
  for (const FileRef& file : tree) {
    hash.Update(absl::StrCat(file.blob.sha256, " ", file.path, "\n"));
  }
  return hash.FinishHex();
}

v1::Evaluation ToProto(const Evaluation& evaluation) {
  v1::Evaluation proto;
  proto.set_loss(evaluation.loss);
  proto.set_accuracy(evaluation.accuracy);
  proto.set_tokens(evaluation.tokens);
  proto.set_rows(evaluation.rows);
  return proto;
}

Evaluation FromProto(const v1::Evaluation& proto) {
  return {.loss = proto.loss(),
          .accuracy = proto.accuracy(),
          .tokens = proto.tokens(),
          .rows = proto.rows()};
}

v1::JobEvent ToProto(const JobEvent& event) {
  v1::JobEvent proto;
  proto.set_sequence(event.sequence);
  *proto.mutable_time() = ToProto(event.time);
  proto.set_state(static_cast<v1::JobState>(event.state));
  proto.set_stage(event.stage);
  proto.set_attempt(event.attempt);
  proto.set_message(event.message);
  return proto;
}

v1::Job ToProto(const Job& job, const StepRecord* last_step) {
  v1::Job proto;
  proto.set_id(job.id.value());
  proto.set_project(job.project);
  *proto.mutable_spec() = ToProto(job.spec);
  proto.set_state(static_cast<v1::JobState>(job.state));
  proto.set_stage(job.stage);
  proto.set_attempt(job.attempt);
  proto.set_reason(job.reason);
  proto.set_error(job.error);
  proto.set_failure_cause(job.failure_cause);
  *proto.mutable_create_time() = ToProto(job.create_time);
  if (job.start_time.has_value()) *proto.mutable_start_time() = ToProto(*job.start_time);
  if (job.end_time.has_value()) *proto.mutable_end_time() = ToProto(*job.end_time);
  if (last_step != nullptr && !proto.mutable_last_step()->ParseFromString(last_step->payload)) {
    proto.clear_last_step();
  }
  if (job.evaluation_before.has_value()) {
    *proto.mutable_evaluation_before() = ToProto(*job.evaluation_before);
  }
  if (job.evaluation_after.has_value()) {
    *proto.mutable_evaluation_after() = ToProto(*job.evaluation_after);
  }
  proto.set_result_model(job.result_model);
  for (const std::string& sha256 : job.adapter_sha256) proto.add_adapter_sha256(sha256);
  proto.set_trained_parameters(job.trained_parameters);
  proto.set_base_parameters(job.base.parameters);
  proto.set_parent_sha256(job.parent.sha256);
  proto.set_checkpoint_step(job.checkpoint.step);
  proto.set_resumed_step(job.resumed_step);
  proto.set_resume_verified(job.resume_verified);
  proto.set_ledger(job.ledger);
  proto.set_spec_version(job.spec_version);
  proto.set_request_id(job.request_id);
  return proto;
}

v1::Dataset ToProto(const Dataset& dataset) {
  v1::Dataset proto;
  proto.set_name(dataset.name);
  proto.set_project(dataset.project);
  *proto.mutable_blob() = ToProto(dataset.blob);
  proto.set_label(dataset.label);
  proto.set_format(dataset.format);
  *proto.mutable_create_time() = ToProto(dataset.create_time);
  return proto;
}

v1::Parity ToProto(const Parity& parity) {
  v1::Parity proto;
  proto.set_max_logit_difference(parity.max_logit_difference);
  proto.set_kl(parity.kl);
  proto.set_greedy_agreement(parity.greedy_agreement);
  proto.set_positions(parity.positions);
  return proto;
}

v1::Model ToProto(const Model& model) {
  v1::Model proto;
  proto.set_name(model.name);
  proto.set_project(model.project);
  proto.set_kind(static_cast<v1::ModelKind>(model.kind));
  proto.set_architecture(model.architecture);
  proto.set_parameters(model.parameters);
  *proto.mutable_files() = ToProto(model.files);
  proto.set_base_model(model.base_model);
  proto.set_job_id(model.job_id);
  proto.set_method(model.method);
  proto.set_parent_model(model.parent_model);
  *proto.mutable_create_time() = ToProto(model.create_time);
  proto.set_template_sha256(model.template_sha256);
  if (model.parity.has_value()) *proto.mutable_parity() = ToProto(*model.parity);
  return proto;
}

Parity FromProto(const v1::Parity& proto) {
  return {.max_logit_difference = proto.max_logit_difference(),
          .kl = proto.kl(),
          .greedy_agreement = proto.greedy_agreement(),
          .positions = proto.positions()};
}

absl::StatusOr<Ended> FromProto(const internal::v1::Ended& proto) {
  Ended ended;
  ended.ok = proto.ok();
  ended.cause = proto.ok() ? EndCause::kNone : ParseEndCause(proto.cause());
  ended.code = proto.code();
  ended.message = proto.message().substr(0, 2048);
  std::replace(ended.message.begin(), ended.message.end(), '\n', ' ');
  if (!proto.ok() && ended.message.empty()) ended.message = "ended without a message";
  LATHE_ASSIGN_OR_RETURN(ended.outputs, FromProto(proto.outputs()));
  ended.adapter_sha256 = proto.done().adapter_sha256();
  ended.trained_parameters = proto.done().trained_parameters();
  ended.resumed_step = proto.done().resumed_step();
  ended.resume_verified = proto.done().resume_verified();
  ended.ledger = absl::StrCat(absl::Hex(proto.done().ledger(), absl::kZeroPad16));
  if (proto.done().has_parity()) ended.parity = FromProto(proto.done().parity());
  ended.payload = proto.done().SerializeAsString();
  return ended;
}

WorkerInfo FromProto(const internal::v1::Register& hello) {
  return {.id = WorkerId(hello.worker_id()),
          .name = hello.name(),
          .slot_kind = hello.slot_kind(),
          .slots = hello.slots(),
          .threads_per_slot = hello.threads_per_slot(),
          .memory_bytes = hello.memory_bytes(),
          .build = hello.build(),
          .metrics_address = hello.metrics_address()};
}

}  // namespace lathe
