#include "worker/trainer/torch_guard.h"

#include <c10/util/Exception.h>

#include <exception>
#include <new>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace lathe {
namespace {

std::string FirstLine(absl::string_view text) {
  return std::string(text.substr(0, text.find('\n')));
}

// The allocator of the CPU throws a plain c10::Error.
bool IsOutOfMemory(absl::string_view message) {
  return absl::StrContains(message, "can't allocate memory") ||
         absl::StrContains(message, "not enough memory");
}

absl::string_view AdviceFor(absl::string_view message) {
  return absl::StrContains(message, "CUDA")
             ? "; lower micro_batch_tokens, set activation_checkpointing, or use method qlora"
             : "";
}

absl::Status FromTorch(const c10::Error& error) {
  const std::string message = FirstLine(error.what_without_backtrace());
  if (dynamic_cast<const c10::OutOfMemoryError*>(&error) != nullptr || IsOutOfMemory(message)) {
    return absl::ResourceExhaustedError(absl::StrCat(message, AdviceFor(message)));
  }
  if (dynamic_cast<const c10::ValueError*>(&error) != nullptr ||
      dynamic_cast<const c10::IndexError*>(&error) != nullptr) {
    return absl::InvalidArgumentError(message);
  }
  return absl::InternalError(message);
}

}  // namespace

absl::Status CatchTorch(const std::function<absl::Status()>& body) {
  try {
    return body();
  } catch (const c10::Error& error) {
    return FromTorch(error);
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("out of memory");
  } catch (const std::exception& error) {
    return absl::InternalError(FirstLine(error.what()));
  }
}

}  // namespace lathe
