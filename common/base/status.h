#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"

// The one error channel. Abseil 20220623 has no such macros yet.

#define LATHE_RETURN_IF_ERROR(expr)                                                       \
  do {                                                                                    \
    if (::absl::Status lathe_status_ = (expr); !lathe_status_.ok()) return lathe_status_; \
  } while (false)

#define LATHE_CONCAT_INNER_(a, b) a##b
#define LATHE_CONCAT_(a, b) LATHE_CONCAT_INNER_(a, b)

// Usage: LATHE_ASSIGN_OR_RETURN(const Dataset data, LoadDataset(path));
#define LATHE_ASSIGN_OR_RETURN(declaration, expr)                  \
  auto LATHE_CONCAT_(lathe_or_, __LINE__) = (expr);                \
  if (!LATHE_CONCAT_(lathe_or_, __LINE__).ok())                    \
    return std::move(LATHE_CONCAT_(lathe_or_, __LINE__)).status(); \
  declaration = *std::move(LATHE_CONCAT_(lathe_or_, __LINE__))

namespace lathe {

// The same code and marks with "context: " before the message. Context is added on the way up.
inline absl::Status Annotate(const absl::Status& status, absl::string_view context) {
  if (status.ok()) return status;
  absl::Status annotated(status.code(), absl::StrCat(context, ": ", status.message()));
  status.ForEachPayload(
      [&](absl::string_view mark, const absl::Cord& value) { annotated.SetPayload(mark, value); });
  return annotated;
}

}  // namespace lathe
