#include "worker/formats/peft.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "worker/formats/strict_json.h"

namespace lathe {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

constexpr int64_t kMaxRank = 65536;
constexpr size_t kMaxTargets = 4096;

// What may stand in PEFT's other keys and changes nothing that we compute.
const std::set<std::string>& HarmlessKeys() {
  static const auto* keys =
      new std::set<std::string>{"auto_mapping",   "inference_mode",    "init_lora_weights",
                                "megatron_core",  "peft_version",      "revision",
                                "runtime_config", "qalora_group_size", "base_model_name_or_path"};
  return *keys;
}

bool IsDefault(const json& value) {
  return value.is_null() || value == false || (value.is_structured() && value.empty());
}

absl::Status KeyError(absl::string_view key, const json& got, absl::string_view allowed) {
  return absl::InvalidArgumentError(
      absl::StrCat(key, " is ", ShortJson(got), "; must be ", allowed));
}

// Every key that is not ours must be harmless or off: patterns, biases and the like would
// load and compute something else.
absl::Status CheckOtherKeys(const json& root) {
  static const auto* ours = new std::set<std::string>{
      "r",         "lora_alpha", "lora_dropout", "target_modules", "peft_type",
      "task_type", "bias",       "use_rslora",   "use_dora"};
  for (const auto& [key, value] : root.items()) {
    if (ours->count(key) > 0 || HarmlessKeys().count(key) > 0 || IsDefault(value)) continue;
    return absl::UnimplementedError(
        absl::StrCat(ShortJson(key), " is ", ShortJson(value), "; supported is only its default"));
  }
  if (root.value("peft_type", json()) != "LORA") {
    return absl::UnimplementedError(absl::StrCat(
        "peft_type is ", ShortJson(root.value("peft_type", json())), "; supported is \"LORA\""));
  }
  const json bias = root.value("bias", json());
  if (bias.is_null() || bias == "none") return absl::OkStatus();
  return absl::UnimplementedError(
      absl::StrCat("bias is ", ShortJson(bias), "; supported is \"none\""));
}

absl::Status ReadTaskType(const json& root, AdapterConfig& config) {
  const json value = root.value("task_type", json());
  if (!value.is_null() && value != "CAUSAL_LM" && value != "SEQ_2_SEQ_LM") {
    return absl::UnimplementedError(absl::StrCat(
        "task_type is ", ShortJson(value), "; supported are \"CAUSAL_LM\", \"SEQ_2_SEQ_LM\""));
  }
  config.task_type = value.is_null() ? "" : value.get<std::string>();
  return absl::OkStatus();
}

absl::Status ReadNumbers(const json& root, AdapterConfig& config) {
  const json rank = root.value("r", json());
  if (!rank.is_number_integer() || rank < 1 || rank > kMaxRank) {
    return KeyError("r", rank, absl::StrCat("a whole number in [1, ", kMaxRank, "]"));
  }
  config.rank = rank.get<int64_t>();
  const json alpha = root.value("lora_alpha", json());
  if (!alpha.is_number() || !std::isfinite(alpha.get<double>()) || alpha <= 0) {
    return KeyError("lora_alpha", alpha, "a number above 0");
  }
  config.alpha = alpha.get<double>();
  const json dropout = root.value("lora_dropout", json(0.0));
  if (!dropout.is_number() || dropout < 0 || dropout >= 1) {
    return KeyError("lora_dropout", dropout, "a number in [0, 1)");
  }
  config.dropout = dropout.get<double>();
  return absl::OkStatus();
}

absl::StatusOr<bool> ReadFlag(const json& root, const char* key) {
  const json value = root.value(key, json());
  if (value.is_null()) return false;
  if (!value.is_boolean()) return KeyError(key, value, "true or false");
  return value.get<bool>();
}

bool IsModuleName(const json& value) {
  if (!value.is_string()) return false;
  const auto& text = value.get_ref<const std::string&>();
  return !text.empty() && text.size() <= 256 &&
         std::all_of(text.begin(), text.end(),
                     [](unsigned char c) { return std::isalnum(c) != 0 || c == '_' || c == '.'; });
}

absl::Status ReadTargets(const json& root, AdapterConfig& config) {
  const json targets = root.value("target_modules", json());
  if (!targets.is_array() || targets.empty() || targets.size() > kMaxTargets) {
    return KeyError("target_modules", targets, "a list of module names such as [\"q_proj\"]");
  }
  for (const json& name : targets) {
    if (!IsModuleName(name)) return KeyError("target_modules", name, "a name such as \"q_proj\"");
    config.target_modules.push_back(name.get<std::string>());
  }
  std::sort(config.target_modules.begin(), config.target_modules.end());
  return absl::OkStatus();
}

absl::StatusOr<AdapterConfig> Parse(const json& root) {
  AdapterConfig config;
  LATHE_RETURN_IF_ERROR(CheckOtherKeys(root));
  LATHE_RETURN_IF_ERROR(ReadTaskType(root, config));
  LATHE_RETURN_IF_ERROR(ReadNumbers(root, config));
  LATHE_ASSIGN_OR_RETURN(config.rslora, ReadFlag(root, "use_rslora"));
  LATHE_ASSIGN_OR_RETURN(config.dora, ReadFlag(root, "use_dora"));
  LATHE_RETURN_IF_ERROR(ReadTargets(root, config));
  const json base = root.value("base_model_name_or_path", json());
  if (!base.is_null() && !base.is_string()) {
    return KeyError("base_model_name_or_path", base, "a string or null");
  }
  if (base.is_string()) config.base_model = base.get<std::string>();
  return config;
}

// 16, not 16.0, as PEFT writes it.
json Number(double value) {
  if (value == std::floor(value) && std::abs(value) < 1e15) {
    return json(static_cast<int64_t>(value));
  }
  return json(value);
}

absl::Status CheckName(const TensorView& tensor) {
  if (absl::StartsWith(tensor.name, "base_model.model.") &&
      (absl::EndsWith(tensor.name, ".lora_A.weight") ||
       absl::EndsWith(tensor.name, ".lora_B.weight") ||
       absl::EndsWith(tensor.name, ".lora_magnitude_vector"))) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("adapter tensor '", tensor.name,
                   "': must be named base_model.model.MODULE.lora_A.weight, lora_B.weight or "
                   "lora_magnitude_vector"));
}

}  // namespace

double AdapterConfig::Scale() const {
  const auto r = static_cast<double>(rank);
  return alpha / (rslora ? std::sqrt(r) : r);
}

bool IsTarget(absl::string_view key, const std::vector<std::string>& targets) {
  return std::any_of(targets.begin(), targets.end(), [&](const std::string& target) {
    return key == target || absl::EndsWith(key, absl::StrCat(".", target));
  });
}

std::string AdapterConfigJson(const AdapterConfig& config) {
  const std::set<std::string> targets(config.target_modules.begin(), config.target_modules.end());
  json root = {{"base_model_name_or_path", config.base_model},
               {"bias", "none"},
               {"fan_in_fan_out", false},
               {"inference_mode", true},
               {"lora_alpha", Number(config.alpha)},
               {"lora_dropout", config.dropout},
               {"modules_to_save", nullptr},
               {"peft_type", "LORA"},
               {"r", config.rank},
               {"revision", nullptr},
               {"target_modules", targets},
               {"task_type", config.task_type.empty() ? json() : json(config.task_type)}};
  if (config.rslora) root["use_rslora"] = true;
  if (config.dora) root["use_dora"] = true;
  return root.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

absl::StatusOr<AdapterConfig> ParseAdapterConfig(absl::string_view text) {
  LATHE_ASSIGN_OR_RETURN(const json root, ParseStrictObject(text, "adapter_config.json"));
  auto config = Parse(root);
  if (!config.ok()) return Annotate(config.status(), "adapter_config.json");
  return config;
}

absl::Status WriteAdapter(const fs::path& dir, const AdapterConfig& config,
                          const std::vector<TensorView>& tensors) {
  for (const TensorView& tensor : tensors) LATHE_RETURN_IF_ERROR(CheckName(tensor));
  LATHE_RETURN_IF_ERROR(RequireNewOrEmptyFolder(dir));
  fs::path target = fs::absolute(dir).lexically_normal();
  if (!target.has_filename()) target = target.parent_path();  // "out/" is "out".
  LATHE_RETURN_IF_ERROR(MakeFolder(target.parent_path()));
  LATHE_ASSIGN_OR_RETURN(TempFolder folder, TempFolder::Make(".adapter", target.parent_path()));
  LATHE_RETURN_IF_ERROR(
      WriteFileAtomically(folder.path() / "adapter_config.json", AdapterConfigJson(config)));
  LATHE_RETURN_IF_ERROR(WriteSafetensors(folder.path() / "adapter_model.safetensors", tensors));
  return folder.PublishAs(target);
}

}  // namespace lathe
