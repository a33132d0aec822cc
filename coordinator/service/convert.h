#pragma once

#include <optional>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "coordinator/core/assignment.h"
#include "coordinator/core/fleet.h"
#include "coordinator/core/records.h"
#include "coordinator/store/store.h"
#include "google/protobuf/duration.pb.h"
#include "google/protobuf/timestamp.pb.h"
#include "lathe/internal/v1/agent.pb.h"
#include "lathe/v1/common.pb.h"
#include "lathe/v1/datasets.pb.h"
#include "lathe/v1/fleet.pb.h"
#include "lathe/v1/jobs.pb.h"
#include "lathe/v1/models.pb.h"

// Records <-> messages, once for all handlers.

namespace lathe {

inline constexpr char kLatheVersion[] = "0.1.0";
inline constexpr int kMaxTreeFiles = 1000;

google::protobuf::Timestamp ToProto(absl::Time time);
google::protobuf::Duration ToProto(absl::Duration duration);
absl::Duration FromProto(const google::protobuf::Duration& duration);

v1::BlobRef ToProto(const BlobRef& blob);
BlobRef FromProto(const v1::BlobRef& blob);

// InvalidArgument unless `path` is relative with '/' between parts, none of them empty, "." or
// "..", no control characters or '\', at most 255 bytes.
absl::Status ValidatePath(absl::string_view path);

v1::FileTree ToProto(const FileTree& tree);
// Sorted by path. InvalidArgument: a bad path, a bad reference, a path twice, over kMaxTreeFiles.
absl::StatusOr<FileTree> FromProto(const v1::FileTree& tree);
// One sha256 over paths and contents.
std::string TreeSha256(const FileTree& tree);

v1::Evaluation ToProto(const Evaluation& evaluation);
Evaluation FromProto(const v1::Evaluation& evaluation);
v1::JobEvent ToProto(const JobEvent& event);
// `last_step`: null if there is none.
v1::Job ToProto(const Job& job, const StepRecord* last_step);
v1::Dataset ToProto(const Dataset& dataset);
v1::Parity ToProto(const Parity& parity);
Parity FromProto(const v1::Parity& proto);
v1::Model ToProto(const Model& model);
absl::StatusOr<Ended> FromProto(const internal::v1::Ended& ended);
WorkerInfo FromProto(const internal::v1::Register& hello);

}  // namespace lathe
