#pragma once

#include <functional>
#include <span>
#include <string>
#include <variant>
#include <vector>
#include "absl/strings/string_view.h"

#include "absl/status/status.h"
#include "common/spec/job_spec.h"

// The one list of the fields of JobSpec.

namespace lathe {

// A value of one field. Lists are written "a,b" in flags.
using FieldValue = std::variant<std::string, int64_t, double, std::vector<std::string>, bool>;

struct Field {
  absl::string_view key;   // Dotted, as in a job file: "lora.rank".
  absl::string_view help;  // One line, with the allowed range.
  FieldValue (*get)(const JobSpec&);
  // REQUIRES: the alternative that `get` returns.
  void (*set)(JobSpec&, const FieldValue&);
};

// In the order of the job file's documentation.
std::span<const Field> JobFields();

// Null if there is none.
const Field* FindJobField(absl::string_view key);

// The known key with the smallest edit distance to `key`.
absl::string_view NearestJobField(absl::string_view key);

// Parses `text` by the field's type and sets it. Unknown key: names the nearest known one.
absl::Status SetJobField(JobSpec& spec, absl::string_view key, absl::string_view text);

// As in a job file: "8", "0.0003", "cosine", "[all-linear]".
std::string FieldText(const Field& field, const JobSpec& spec);

// Key, default and help of every field, aligned, one per line.
std::string ExplainJobSpec(const JobSpec& defaults = {});

}  // namespace lathe
