#pragma once

#include <map>
#include <string>

#include "coordinator/core/assignment.h"
#include "coordinator/core/records.h"
#include "lathe/internal/v1/agent.pb.h"

// What a worker is told to do. Pure.

namespace lathe {

// A single process beside the jobs.
struct ErrandTask {
  internal::v1::Task task;                 // Without job_id, attempt and paths.
  std::map<std::string, FileTree> inputs;  // "model", "data", "source".
};

// Of a stage of a job. `shards`: empty unless the stage is train.
internal::v1::Assignment JobAssignment(const Assignment& assignment, const Job& job,
                                       const FileTree& shards, int threads_per_slot);

internal::v1::Assignment ErrandAssignment(const Assignment& assignment, const ErrandTask& errand,
                                          int threads_per_slot);

ErrandTask ImportErrand(const FileTree& source);
// `model`: empty for none. `max_length`: 0 for 2048.
ErrandTask CheckErrand(const Dataset& dataset, const FileTree& model, int64_t max_length);
ErrandTask PreviewErrand(const Dataset& dataset, const FileTree& model, int64_t row,
                         int64_t max_length);
// `base_storage`: as BaseStorageOf() names it.
ErrandTask ServeErrand(const FileTree& model, const std::string& base_storage);

// What prepare makes depends on the bytes of the data, on the tokenizer and template, and on these
// fields of the spec; on the weights it does not.
std::string ShardKey(const Job& job);

}  // namespace lathe
