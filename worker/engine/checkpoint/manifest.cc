#include "worker/engine/checkpoint/manifest.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/sha256.h"
#include "nlohmann/json.hpp"

namespace lathe {
namespace {

using nlohmann::ordered_json;

constexpr int kVersion = 1;

std::string Hex(uint64_t value) { return absl::StrCat(absl::Hex(value, absl::kZeroPad16)); }

absl::Status Damaged(absl::string_view what) {
  return absl::DataLossError(absl::StrCat("manifest.json: ", what));
}

uint64_t FromHex(const std::string& text) {
  uint64_t value = 0;
  if (text.size() != 16 || !absl::SimpleHexAtoi(text, &value)) {
    throw std::invalid_argument("not 16 hexadecimal digits");
  }
  return value;
}

ordered_json ToJson(const CheckpointManifest& manifest) {
  ordered_json slices = ordered_json::array();
  for (const TensorSlice& slice : manifest.slices) {
    slices.push_back({{"name", slice.name}, {"shape", slice.shape}, {"begin", slice.begin}});
  }
  ordered_json files = ordered_json::array();
  for (const CheckpointFile& file : manifest.files) {
    files.push_back({{"name", file.name}, {"size", file.size}, {"sha256", file.sha256}});
  }
  return {{"version", kVersion},
          {"step", manifest.step},
          {"attempt", manifest.attempt},
          {"ledger", Hex(manifest.ledger)},
          {"context", manifest.context},
          {"machine", manifest.machine},
          {"proof",
           {{"loss_bits", Hex(manifest.proof.loss_bits)},
            {"gradient_sha256", manifest.proof.gradient_sha256}}},
          {"slices", slices},
          {"files", files}};
}

// Throws nlohmann's exceptions and std::invalid_argument where a key is missing or is something
// else.
CheckpointManifest FromJson(const ordered_json& json) {
  CheckpointManifest manifest;
  manifest.step = json.at("step").get<int64_t>();
  manifest.attempt = json.at("attempt").get<int64_t>();
  manifest.ledger = FromHex(json.at("ledger").get<std::string>());
  manifest.context = json.at("context").get<std::map<std::string, std::string>>();
  manifest.machine = json.at("machine").get<std::string>();
  const ordered_json& proof = json.at("proof");
  manifest.proof = {FromHex(proof.at("loss_bits").get<std::string>()),
                    proof.at("gradient_sha256").get<std::string>()};
  for (const ordered_json& slice : json.at("slices")) {
    manifest.slices.push_back({slice.at("name").get<std::string>(),
                               slice.at("shape").get<std::vector<int64_t>>(),
                               slice.at("begin").get<int64_t>()});
  }
  for (const ordered_json& file : json.at("files")) {
    manifest.files.push_back({file.at("name").get<std::string>(), file.at("size").get<int64_t>(),
                              file.at("sha256").get<std::string>()});
  }
  return manifest;
}

}  // namespace

std::string ManifestToText(const CheckpointManifest& manifest) {
  const std::string line = ToJson(manifest).dump();
  return absl::StrCat(line, "\n", Sha256Hex(line), "\n");
}

absl::StatusOr<CheckpointManifest> ParseManifest(absl::string_view text) {
  const size_t end = text.find('\n');
  if (end == absl::string_view::npos) return Damaged("has no second line");
  const absl::string_view line = text.substr(0, end);
  if (text.substr(end + 1) != absl::StrCat(Sha256Hex(line), "\n")) {
    return Damaged("its sha256 is not the one in its second line");
  }
  const ordered_json json = ordered_json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || json.value("version", 0) != kVersion) {
    return Damaged(absl::StrCat("is not of version ", kVersion));
  }
  try {
    return FromJson(json);
  } catch (const std::exception& error) {
    return Damaged(error.what());
  }
}

absl::Status CheckContext(const CheckpointManifest& manifest,
                          const std::map<std::string, std::string>& context) {
  const auto value_of = [](const std::map<std::string, std::string>& all, const std::string& key) {
    const auto found = all.find(key);
    return found == all.end() ? std::string("nothing") : found->second;
  };
  std::map<std::string, std::string> keys = context;
  keys.insert(manifest.context.begin(), manifest.context.end());
  for (const auto& [key, unused] : keys) {
    const std::string theirs = value_of(manifest.context, key);
    const std::string ours = value_of(context, key);
    if (theirs == ours) continue;
    return absl::FailedPreconditionError(
        absl::StrCat(key, " differs: the checkpoint has ", theirs, ", this training ", ours));
  }
  return absl::OkStatus();
}

}  // namespace lathe
