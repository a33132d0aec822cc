#pragma once

#include <compare>
#include <string>
#include <utility>
#include "absl/strings/string_view.h"

#include "absl/status/statusor.h"

namespace lathe {

// 26 characters of Crockford base 32, lower case: 48 bits of milliseconds since the epoch, 80
// random bits. Sorts by time; safe in DNS names, paths and URLs.
std::string NewUlid();

// A random secret of 256 bits in lower-case hexadecimal (64 characters).
std::string NewToken();

// Whether `name` may name a model, data set, job or worker: 1 to 63 of [a-z0-9-._], starting with a
// letter or digit.
absl::Status ValidateName(absl::string_view what, absl::string_view name);

// A string that belongs to one kind of thing, so that swapping two of them does not compile.
// Tag has a `static constexpr absl::string_view kPrefix`.
template <class Tag>
class Id {
 public:
  Id() = default;
  explicit Id(std::string value) : value_(std::move(value)) {}
  static Id New() { return Id(std::string(Tag::kPrefix) + "-" + NewUlid()); }

  const std::string& value() const { return value_; }
  bool empty() const { return value_.empty(); }
  friend auto operator<=>(const Id&, const Id&) = default;

  template <class H>
  friend H AbslHashValue(H h, const Id& id) {
    return H::combine(std::move(h), id.value_);
  }

 private:
  std::string value_;
};

struct JobTag {
  static constexpr absl::string_view kPrefix = "job";
};
struct WorkerTag {
  static constexpr absl::string_view kPrefix = "wrk";
};
struct AssignmentTag {
  static constexpr absl::string_view kPrefix = "asg";
};
using JobId = Id<JobTag>;
using WorkerId = Id<WorkerTag>;
using AssignmentId = Id<AssignmentTag>;

}  // namespace lathe
