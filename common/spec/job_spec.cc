#include "common/spec/job_spec.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include "absl/strings/string_view.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/id.h"
#include "common/base/status.h"

namespace lathe {
namespace {

absl::Status InRange(absl::string_view key, double value, double low, double high) {
  if (std::isfinite(value) && value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(key, " is ", value, "; must be in [", low, ", ", high, "]"));
}

absl::Status OneOf(absl::string_view key, absl::string_view value,
                   std::initializer_list<absl::string_view> allowed) {
  if (std::find(allowed.begin(), allowed.end(), value) != allowed.end()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      key, " is '", value.substr(0, 80), "'; must be one of ", absl::StrJoin(allowed, ", ")));
}

absl::Status ValidateLora(const LoraSpec& lora) {
  LATHE_RETURN_IF_ERROR(InRange("lora.rank", lora.rank, 1, 256));
  LATHE_RETURN_IF_ERROR(InRange("lora.alpha", lora.alpha, 1e-6, 4096));
  LATHE_RETURN_IF_ERROR(InRange("lora.dropout", lora.dropout, 0, 0.999));
  if (lora.target_modules.empty()) {
    return absl::InvalidArgumentError(
        "lora.target_modules is empty; must be all-linear or names of linear layers");
  }
  return absl::OkStatus();
}

absl::Status ValidateParent(const JobSpec& spec) {
  if (spec.parent_model.empty()) return absl::OkStatus();
  if (IsFullTuning(spec)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "parent_model is '", spec.parent_model.substr(0, 80),
        "'; method full starts from 'model' alone: name the model to tune further there"));
  }
  return ValidateName("parent_model", spec.parent_model);
}

absl::Status ValidateOptimizer(const JobSpec& spec) {
  LATHE_RETURN_IF_ERROR(InRange("learning_rate", spec.learning_rate, 0, 1));
  LATHE_RETURN_IF_ERROR(OneOf("schedule", spec.schedule, {"cosine", "linear", "constant"}));
  LATHE_RETURN_IF_ERROR(InRange("warmup_ratio", spec.warmup_ratio, 0, 1));
  LATHE_RETURN_IF_ERROR(InRange("max_grad_norm", spec.max_grad_norm, 0, 1e9));
  LATHE_RETURN_IF_ERROR(InRange("weight_decay", spec.weight_decay, 0, 1));
  LATHE_RETURN_IF_ERROR(InRange("beta1", spec.beta1, 0, 0.999999));
  LATHE_RETURN_IF_ERROR(InRange("beta2", spec.beta2, 0, 0.9999999));
  return InRange("eps", spec.eps, 1e-30, 1);
}

}  // namespace

absl::Status Validate(const JobSpec& spec) {
  if (!spec.name.empty()) LATHE_RETURN_IF_ERROR(ValidateName("name", spec.name));
  LATHE_RETURN_IF_ERROR(ValidateName("model", spec.model));
  LATHE_RETURN_IF_ERROR(ValidateName("dataset", spec.dataset));
  LATHE_RETURN_IF_ERROR(OneOf("method", spec.method, {"sft", "qlora", "full"}));
  LATHE_RETURN_IF_ERROR(OneOf("device", spec.device, {"cpu", "cuda"}));
  if (!spec.base_dtype.empty()) {
    LATHE_RETURN_IF_ERROR(OneOf("base_dtype", spec.base_dtype, {"f32", "bf16"}));
  }
  if (IsFullTuning(spec) && spec.base_dtype == "bf16") {
    return absl::InvalidArgumentError(
        absl::StrCat("base_dtype is '", spec.base_dtype, "'; with method full it must be f32"));
  }
  if (IsFullTuning(spec) && spec.device != "cpu") {
    return absl::InvalidArgumentError(
        absl::StrCat("device is '", spec.device, "'; with method full it must be cpu"));
  }
  LATHE_RETURN_IF_ERROR(ValidateLora(spec.lora));
  LATHE_RETURN_IF_ERROR(ValidateParent(spec));
  LATHE_RETURN_IF_ERROR(InRange("max_length", spec.max_length, 16, 131072));
  LATHE_RETURN_IF_ERROR(
      OneOf("on_too_long", spec.on_too_long, {"truncate_answer", "drop", "error"}));
  LATHE_RETURN_IF_ERROR(InRange("validation_fraction", spec.validation_fraction, 0, 0.5));
  LATHE_RETURN_IF_ERROR(InRange("epochs", spec.epochs, 1, 1000));
  LATHE_RETURN_IF_ERROR(InRange("batch_size", spec.batch_size, 1, 65536));
  if (spec.micro_batch_tokens != 0) {
    LATHE_RETURN_IF_ERROR(InRange("micro_batch_tokens", spec.micro_batch_tokens, 16, 1048576));
  }
  LATHE_RETURN_IF_ERROR(ValidateOptimizer(spec));
  LATHE_RETURN_IF_ERROR(InRange("ranks", spec.ranks, 1, 4096));
  LATHE_RETURN_IF_ERROR(InRange("min_ranks", spec.min_ranks, 0, spec.ranks));
  if (!spec.reduction.empty()) {
    LATHE_RETURN_IF_ERROR(OneOf("reduction", spec.reduction, {"fast", "exact"}));
  }
  LATHE_RETURN_IF_ERROR(InRange("checkpoint.every_steps", spec.checkpoint.every_steps, 1, 1000000));
  LATHE_RETURN_IF_ERROR(InRange("max_restarts", spec.max_restarts, 0, 100));
  return InRange("priority", spec.priority, -100, 100);
}

JobSpec Resolve(JobSpec spec, const std::string& unique) {
  if (spec.learning_rate == 0) spec.learning_rate = IsFullTuning(spec) ? 2e-5 : 3e-4;
  if (spec.base_dtype.empty()) spec.base_dtype = spec.device == "cuda" ? "bf16" : "f32";
  // A GPU promises no bits in any case; of all parameters the sums take half as much memory again.
  if (spec.reduction.empty()) {
    spec.reduction = IsFullTuning(spec) || spec.device == "cuda" ? "fast" : "exact";
  }
  // A fixed number, not free memory: the content of micro-batches is part of the result and must
  // not depend on where the job happens to run. A GPU is idle half of the time with fewer.
  if (spec.micro_batch_tokens == 0) {
    spec.micro_batch_tokens = std::max(spec.device == "cuda" ? 4096 : 1024, spec.max_length / 4);
  }
  if (spec.name.empty()) {
    spec.name =
        absl::StrCat(spec.dataset.substr(0, 24), "-", spec.model.substr(0, 24), "-", unique);
  }
  return spec;
}

std::string BaseStorageOf(const JobSpec& spec) {
  const bool bf16 = spec.base_dtype == "bf16";
  if (spec.method == "qlora") return bf16 ? "nf4+bf16" : "nf4";
  return bf16 ? "bf16" : "f32";
}

}  // namespace lathe
