#include "coordinator/store/documents.h"

#include <utility>

#include "common/base/status.h"
#include "common/spec/field.h"
#include "nlohmann/json.hpp"

namespace lathe {
namespace {

using Json = nlohmann::json;

absl::StatusOr<Json> Parse(const std::string& text) {
  Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() && !json.is_array()) {
    return absl::DataLossError("database: a document is not JSON");
  }
  return json;
}

template <class T>
void Read(const Json& json, const char* key, T& value) {
  const auto found = json.find(key);
  if (found == json.end()) return;
  if constexpr (std::is_same_v<T, std::string>) {
    if (found->is_string()) value = found->template get<std::string>();
  } else {
    if (found->is_number()) value = found->template get<T>();
  }
}

Json ToJson(const BlobRef& blob) { return {{"sha256", blob.sha256}, {"size", blob.size}}; }

BlobRef BlobFromJson(const Json& json) {
  BlobRef blob;
  Read(json, "sha256", blob.sha256);
  Read(json, "size", blob.size);
  return blob;
}

Json ToJson(const FileTree& tree) {
  Json json = Json::array();
  for (const FileRef& file : tree) {
    Json entry = ToJson(file.blob);
    entry["path"] = file.path;
    json.push_back(std::move(entry));
  }
  return json;
}

FileTree TreeFrom(const Json& json) {
  FileTree tree;
  for (const Json& entry : json) {
    FileRef file{.path = "", .blob = BlobFromJson(entry)};
    Read(entry, "path", file.path);
    tree.push_back(std::move(file));
  }
  return tree;
}

Json ToJson(const SavedCheckpoint& checkpoint) {
  return {{"step", checkpoint.step}, {"files", ToJson(checkpoint.files)}};
}

// None where an older build wrote none.
SavedCheckpoint CheckpointFrom(const Json& json) {
  SavedCheckpoint checkpoint;
  if (!json.is_object()) return checkpoint;
  Read(json, "step", checkpoint.step);
  checkpoint.files = TreeFrom(json.value("files", Json::array()));
  return checkpoint;
}

Json ToJson(const std::vector<PlacedRank>& gang) {
  Json json = Json::array();
  for (const PlacedRank& rank : gang) {
    json.push_back({{"assignment", rank.assignment.value()},
                    {"worker", rank.worker.value()},
                    {"worker_name", rank.worker_name},
                    {"slots", rank.slots}});
  }
  return json;
}

std::vector<PlacedRank> GangFrom(const Json& json) {
  std::vector<PlacedRank> gang;
  for (const Json& entry : json) {
    PlacedRank& rank = gang.emplace_back();
    std::string assignment;
    std::string worker;
    Read(entry, "assignment", assignment);
    Read(entry, "worker", worker);
    rank.assignment = AssignmentId(std::move(assignment));
    rank.worker = WorkerId(std::move(worker));
    Read(entry, "worker_name", rank.worker_name);
    Read(entry, "slots", rank.slots);
  }
  return gang;
}

std::optional<RendezvousPoint> RendezvousFrom(const Json& json) {
  if (!json.is_object()) return std::nullopt;
  RendezvousPoint point;
  Read(json, "host", point.host);
  Read(json, "port", point.port);
  return point;
}

Json ToJson(const BaseModel& base) {
  return {{"architecture", base.architecture},
          {"parameters", base.parameters},
          {"template_sha256", base.template_sha256},
          {"files", ToJson(base.files)}};
}

BaseModel BaseFrom(const Json& json) {
  BaseModel base;
  Read(json, "architecture", base.architecture);
  Read(json, "parameters", base.parameters);
  Read(json, "template_sha256", base.template_sha256);
  base.files = TreeFrom(json.value("files", Json::array()));
  return base;
}

Json ToJson(const Parity& parity) {
  return {{"max_logit_difference", parity.max_logit_difference},
          {"kl", parity.kl},
          {"greedy_agreement", parity.greedy_agreement},
          {"positions", parity.positions}};
}

Parity ParityFrom(const Json& json) {
  Parity parity;
  Read(json, "max_logit_difference", parity.max_logit_difference);
  Read(json, "kl", parity.kl);
  Read(json, "greedy_agreement", parity.greedy_agreement);
  Read(json, "positions", parity.positions);
  return parity;
}

// Microseconds since the epoch.
Json ToJson(absl::Time time) { return absl::ToUnixMicros(time); }

absl::Time TimeFrom(const Json& json) {
  return json.is_number() ? absl::FromUnixMicros(json.get<int64_t>()) : absl::UnixEpoch();
}

Json ToJson(const Evaluation& evaluation) {
  return {{"loss", evaluation.loss},
          {"accuracy", evaluation.accuracy},
          {"tokens", evaluation.tokens},
          {"rows", evaluation.rows}};
}

Evaluation EvaluationFrom(const Json& json) {
  Evaluation evaluation;
  Read(json, "loss", evaluation.loss);
  Read(json, "accuracy", evaluation.accuracy);
  Read(json, "tokens", evaluation.tokens);
  Read(json, "rows", evaluation.rows);
  return evaluation;
}

Json ToJson(const JobSpec& spec) {
  Json json = Json::object();
  for (const Field& field : JobFields()) {
    std::visit([&](const auto& value) { json[std::string(field.key)] = value; }, field.get(spec));
  }
  return json;
}

struct FieldReader {
  const Json& json;
  bool operator()(std::string& value) const {
    if (!json.is_string()) return false;
    value = json.get<std::string>();
    return true;
  }
  bool operator()(int64_t& value) const {
    if (!json.is_number_integer()) return false;
    value = json.get<int64_t>();
    return true;
  }
  bool operator()(double& value) const {
    if (!json.is_number()) return false;
    value = json.get<double>();
    return true;
  }
  bool operator()(bool& value) const {
    if (!json.is_boolean()) return false;
    value = json.get<bool>();
    return true;
  }
  bool operator()(std::vector<std::string>& value) const {
    if (!json.is_array()) return false;
    value.clear();
    for (const Json& item : json) {
      if (item.is_string()) value.push_back(item.get<std::string>());
    }
    return true;
  }
};

JobSpec SpecFrom(const Json& json) {
  JobSpec spec;
  for (const Field& field : JobFields()) {
    const auto found = json.find(std::string(field.key));
    if (found == json.end()) continue;
    FieldValue value = field.get(spec);
    if (std::visit(FieldReader{*found}, value)) field.set(spec, value);
  }
  return spec;
}

}  // namespace

std::string TreeToJson(const FileTree& tree) { return ToJson(tree).dump(); }

absl::StatusOr<FileTree> TreeFromJson(const std::string& json) {
  LATHE_ASSIGN_OR_RETURN(const Json parsed, Parse(json));
  return TreeFrom(parsed);
}

std::string JobToJson(const Job& job) {
  Json json = {{"project", job.project},
               {"request_id", job.request_id},
               {"request_sha256", job.request_sha256},
               {"spec", ToJson(job.spec)},
               {"spec_version", job.spec_version},
               {"stage", job.stage},
               {"failures", job.failures},
               {"reason", job.reason},
               {"error", job.error},
               {"failure_cause", job.failure_cause},
               {"create_time", ToJson(job.create_time)},
               {"last_sequence", job.last_sequence},
               {"dataset_blob", ToJson(job.dataset_blob)},
               {"dataset_format", job.dataset_format},
               {"base", ToJson(job.base)},
               {"shard_key", job.shard_key},
               {"result_model", job.result_model},
               {"adapter_sha256", job.adapter_sha256},
               {"trained_parameters", job.trained_parameters},
               {"checkpoint", ToJson(job.checkpoint)},
               {"fallback", ToJson(job.fallback)},
               {"resumed_step", job.resumed_step},
               {"resume_verified", job.resume_verified},
               {"ledger", job.ledger}};
  if (!job.gang.empty()) json["gang"] = ToJson(job.gang);
  if (job.moves) json["moves"] = true;
  if (job.rendezvous.has_value()) {
    json["rendezvous"] = {{"host", job.rendezvous->host}, {"port", job.rendezvous->port}};
  }
  if (!job.parent.sha256.empty()) {
    json["parent"] = {{"sha256", job.parent.sha256}, {"files", ToJson(job.parent.files)}};
  }
  if (job.start_time.has_value()) json["start_time"] = ToJson(*job.start_time);
  if (job.end_time.has_value()) json["end_time"] = ToJson(*job.end_time);
  if (job.evaluation_before.has_value()) json["evaluation_before"] = ToJson(*job.evaluation_before);
  if (job.evaluation_after.has_value()) json["evaluation_after"] = ToJson(*job.evaluation_after);
  // A message of a child process may hold any bytes.
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

absl::Status JobFromJson(const std::string& text, Job& job) {
  LATHE_ASSIGN_OR_RETURN(const Json json, Parse(text));
  Read(json, "project", job.project);
  Read(json, "request_id", job.request_id);
  Read(json, "request_sha256", job.request_sha256);
  job.spec = SpecFrom(json.value("spec", Json::object()));
  Read(json, "spec_version", job.spec_version);
  Read(json, "stage", job.stage);
  job.gang = GangFrom(json.value("gang", Json::array()));
  FieldReader{json.value("moves", Json())}(job.moves);
  job.rendezvous = RendezvousFrom(json.value("rendezvous", Json()));
  Read(json, "failures", job.failures);
  Read(json, "reason", job.reason);
  Read(json, "error", job.error);
  Read(json, "failure_cause", job.failure_cause);
  job.create_time = TimeFrom(json.value("create_time", Json()));
  Read(json, "last_sequence", job.last_sequence);
  job.dataset_blob = BlobFromJson(json.value("dataset_blob", Json::object()));
  Read(json, "dataset_format", job.dataset_format);
  job.base = BaseFrom(json.value("base", Json::object()));
  if (const Json parent = json.value("parent", Json()); parent.is_object()) {
    Read(parent, "sha256", job.parent.sha256);
    job.parent.files = TreeFrom(parent.value("files", Json::array()));
  }
  Read(json, "shard_key", job.shard_key);
  Read(json, "result_model", job.result_model);
  FieldReader{json.value("adapter_sha256", Json::array())}(job.adapter_sha256);
  Read(json, "trained_parameters", job.trained_parameters);
  job.checkpoint = CheckpointFrom(json.value("checkpoint", Json()));
  job.fallback = CheckpointFrom(json.value("fallback", Json()));
  Read(json, "resumed_step", job.resumed_step);
  FieldReader{json.value("resume_verified", Json())}(job.resume_verified);
  Read(json, "ledger", job.ledger);
  if (json.contains("start_time")) job.start_time = TimeFrom(json["start_time"]);
  if (json.contains("end_time")) job.end_time = TimeFrom(json["end_time"]);
  if (json.contains("evaluation_before")) {
    job.evaluation_before = EvaluationFrom(json["evaluation_before"]);
  }
  if (json.contains("evaluation_after")) {
    job.evaluation_after = EvaluationFrom(json["evaluation_after"]);
  }
  return absl::OkStatus();
}

std::string DatasetToJson(const Dataset& dataset) {
  const Json json = {{"name", dataset.name},         {"project", dataset.project},
                     {"blob", ToJson(dataset.blob)}, {"label", dataset.label},
                     {"format", dataset.format},     {"create_time", ToJson(dataset.create_time)}};
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

absl::StatusOr<Dataset> DatasetFromJson(const std::string& text) {
  LATHE_ASSIGN_OR_RETURN(const Json json, Parse(text));
  Dataset dataset;
  Read(json, "name", dataset.name);
  Read(json, "project", dataset.project);
  dataset.blob = BlobFromJson(json.value("blob", Json::object()));
  Read(json, "label", dataset.label);
  Read(json, "format", dataset.format);
  dataset.create_time = TimeFrom(json.value("create_time", Json()));
  return dataset;
}

std::string ModelToJson(const Model& model) {
  Json json = {{"name", model.name},
               {"project", model.project},
               {"kind", static_cast<int>(model.kind)},
               {"architecture", model.architecture},
               {"parameters", model.parameters},
               {"files", ToJson(model.files)},
               {"base_model", model.base_model},
               {"job_id", model.job_id},
               {"method", model.method},
               {"parent_model", model.parent_model},
               {"create_time", ToJson(model.create_time)},
               {"template_sha256", model.template_sha256}};
  if (model.parity.has_value()) json["parity"] = ToJson(*model.parity);
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

absl::StatusOr<Model> ModelFromJson(const std::string& text) {
  LATHE_ASSIGN_OR_RETURN(const Json json, Parse(text));
  Model model;
  int kind = static_cast<int>(ModelKind::kBase);
  Read(json, "name", model.name);
  Read(json, "project", model.project);
  Read(json, "kind", kind);
  model.kind = static_cast<ModelKind>(kind);
  Read(json, "architecture", model.architecture);
  Read(json, "parameters", model.parameters);
  model.files = TreeFrom(json.value("files", Json::array()));
  Read(json, "base_model", model.base_model);
  Read(json, "job_id", model.job_id);
  Read(json, "method", model.method);
  Read(json, "parent_model", model.parent_model);
  model.create_time = TimeFrom(json.value("create_time", Json()));
  Read(json, "template_sha256", model.template_sha256);
  if (json.contains("parity")) model.parity = ParityFrom(json["parity"]);
  return model;
}

}  // namespace lathe
