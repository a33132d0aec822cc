#include "common/spec/field.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <type_traits>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace lathe {
namespace {

template <class T>
FieldValue ToValue(const T& member) {
  if constexpr (std::is_same_v<T, int>) {
    return FieldValue(int64_t{member});
  } else {
    return FieldValue(member);
  }
}

template <class T>
void FromValue(T& member, const FieldValue& value) {
  if constexpr (std::is_same_v<T, int>) {
    member = static_cast<int>(std::clamp<int64_t>(std::get<int64_t>(value), INT32_MIN, INT32_MAX));
  } else {
    member = std::get<T>(value);
  }
}

// A lambda without captures names the member: it works for nested members, which member pointers do
// not.
#define LATHE_FIELD(key, member, help)                                                 \
  Field {                                                                              \
    key, help, [](const JobSpec& spec) -> FieldValue { return ToValue(spec.member); }, \
        [](JobSpec& spec, const FieldValue& value) { FromValue(spec.member, value); }  \
  }

const std::array kFields = {
    LATHE_FIELD("name", name, "name of the tuned model; chosen from data set and model when empty"),
    LATHE_FIELD("model", model, "name of an imported model (lathe models list)"),
    LATHE_FIELD("dataset", dataset, "name of an uploaded data set (lathe datasets list)"),
    LATHE_FIELD("method", method,
                "sft: LoRA; qlora: the same over a base in 4 bits; full: all parameters"),
    LATHE_FIELD("device", device, "cpu or cuda: what computes"),
    LATHE_FIELD(
        "base_dtype", base_dtype,
        "f32 or bf16: how the base's matrices are held; f32 on cpu, bf16 on cuda when empty"),
    LATHE_FIELD("lora.rank", lora.rank, "rank of the update matrices, 1 to 256"),
    LATHE_FIELD("lora.alpha", lora.alpha, "the update is scaled by alpha / rank"),
    LATHE_FIELD("lora.rslora", lora.rslora, "true: scaled by alpha / sqrt(rank) instead"),
    LATHE_FIELD("lora.dora", lora.dora, "true: DoRA, the rows' lengths are trained as well"),
    LATHE_FIELD("lora.target_modules", lora.target_modules,
                "all-linear, or a list such as q_proj,v_proj"),
    LATHE_FIELD("lora.dropout", lora.dropout, "0 to below 1, in training only"),
    LATHE_FIELD("parent_model", parent_model,
                "adapter over the model to go on from; its lora settings are taken over"),
    LATHE_FIELD("max_length", max_length, "tokens a row may have, 16 to 131072"),
    LATHE_FIELD("on_too_long", on_too_long,
                "truncate_answer, drop or error; what happens is reported"),
    LATHE_FIELD("validation_fraction", validation_fraction,
                "share of rows held out, 0 to 0.5; ignored when rows carry 'split'"),
    LATHE_FIELD("seed", seed, "order of the rows and start of the adapter"),
    LATHE_FIELD("epochs", epochs, "passes over the training rows, 1 to 1000"),
    LATHE_FIELD("batch_size", batch_size, "rows per step over all ranks, 1 to 65536"),
    LATHE_FIELD("micro_batch_tokens", micro_batch_tokens,
                "token budget of a packed micro-batch; 0: chosen by memory"),
    LATHE_FIELD("activation_checkpointing", activation_checkpointing,
                "true: layers are computed again in backward; less memory, more time"),
    LATHE_FIELD("learning_rate", learning_rate, "peak; 0: 3e-4 for LoRA, 2e-5 for full"),
    LATHE_FIELD("schedule", schedule, "cosine, linear or constant"),
    LATHE_FIELD("warmup_ratio", warmup_ratio, "share of all steps, 0 to 1"),
    LATHE_FIELD("max_grad_norm", max_grad_norm, "gradients are clipped to this norm; 0: never"),
    LATHE_FIELD("weight_decay", weight_decay, "AdamW, 0 to 1"),
    LATHE_FIELD("beta1", beta1, "AdamW, 0 to below 1"),
    LATHE_FIELD("beta2", beta2, "AdamW, 0 to below 1"),
    LATHE_FIELD("eps", eps, "AdamW, above 0"),
    LATHE_FIELD("ranks", ranks, "processes that train data-parallel, 1 to 4096"),
    LATHE_FIELD("min_ranks", min_ranks,
                "trains with fewer ranks, down to this, while slots are missing; 0: always ranks"),
    LATHE_FIELD("reduction", reduction,
                "exact: the same bits with any number of ranks; fast: sums of floats; chosen when "
                "empty"),
    LATHE_FIELD("checkpoint.every_steps", checkpoint.every_steps, "steps between checkpoints"),
    LATHE_FIELD("max_restarts", max_restarts, "attempts after the first, 0 to 100"),
    LATHE_FIELD("priority", priority,
                "of waiting jobs the highest is placed first, -100 to 100; what runs goes on"),
};

size_t EditDistance(absl::string_view a, absl::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t substitute = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substitute});
    }
  }
  return row[b.size()];
}

std::vector<std::string> ParseList(absl::string_view text) {
  absl::ConsumePrefix(&text, "[");
  absl::ConsumeSuffix(&text, "]");
  std::vector<std::string> items;
  for (absl::string_view item : absl::StrSplit(text, ',', absl::SkipWhitespace())) {
    items.emplace_back(absl::StripAsciiWhitespace(item));
  }
  return items;
}

// False if `text` is not of the type of `value`.
bool ParseInto(absl::string_view text, FieldValue& value) {
  if (auto* number = std::get_if<int64_t>(&value)) return absl::SimpleAtoi(text, number);
  if (auto* real = std::get_if<double>(&value)) return absl::SimpleAtod(text, real);
  if (auto* list = std::get_if<std::vector<std::string>>(&value)) {
    *list = ParseList(text);
    return true;
  }
  if (auto* flag = std::get_if<bool>(&value)) {
    *flag = text == "true";
    return *flag || text == "false";
  }
  value = std::string(text);
  return true;
}

absl::string_view TypeName(const FieldValue& value) {
  constexpr std::array<absl::string_view, 5> kNames = {"text", "a whole number", "a number",
                                                       "a list", "true or false"};
  return kNames[value.index()];
}

}  // namespace

std::span<const Field> JobFields() { return kFields; }

const Field* FindJobField(absl::string_view key) {
  const auto* found =
      std::find_if(kFields.begin(), kFields.end(), [&](const Field& f) { return f.key == key; });
  return found == kFields.end() ? nullptr : found;
}

absl::string_view NearestJobField(absl::string_view key) {
  return std::min_element(kFields.begin(), kFields.end(),
                          [&](const Field& a, const Field& b) {
                            return EditDistance(key, a.key) < EditDistance(key, b.key);
                          })
      ->key;
}

absl::Status SetJobField(JobSpec& spec, absl::string_view key, absl::string_view text) {
  const Field* field = FindJobField(key);
  if (field == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("job has unknown key '", key.substr(0, 80),
                                                   "'; did you mean '", NearestJobField(key),
                                                   "'?"));
  }
  FieldValue value = field->get(spec);
  if (!ParseInto(text, value)) {
    return absl::InvalidArgumentError(
        absl::StrCat(key, " is '", text.substr(0, 80), "'; must be ", TypeName(value)));
  }
  field->set(spec, value);
  spec.given.insert(std::string(key));
  return absl::OkStatus();
}

std::string FieldText(const Field& field, const JobSpec& spec) {
  const FieldValue value = field.get(spec);
  if (const auto* text = std::get_if<std::string>(&value)) return *text;
  if (const auto* number = std::get_if<int64_t>(&value)) return absl::StrCat(*number);
  if (const auto* real = std::get_if<double>(&value)) return absl::StrCat(*real);
  if (const auto* flag = std::get_if<bool>(&value)) return *flag ? "true" : "false";
  return absl::StrCat("[", absl::StrJoin(std::get<std::vector<std::string>>(value), ", "), "]");
}

std::string ExplainJobSpec(const JobSpec& defaults) {
  std::string out;
  for (const Field& field : kFields) {
    absl::StrAppendFormat(&out, "%-24s %-16s %s\n", field.key, FieldText(field, defaults),
                          field.help);
  }
  return out;
}

}  // namespace lathe
