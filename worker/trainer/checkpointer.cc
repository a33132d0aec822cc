#include "worker/trainer/checkpointer.h"

#include <ATen/ATen.h>
#include <torch/headeronly/version.h>

#include <bit>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/file.h"
#include "common/base/log.h"
#include "common/base/sha256.h"
#include "common/base/status.h"
#include "common/spec/field.h"
#include "worker/trainer/tensor_view.h"

namespace lathe {
namespace {

namespace fs = std::filesystem;

constexpr char kValues[] = "values";
constexpr char kFirstMoments[] = "first_moments";
constexpr char kSecondMoments[] = "second_moments";
constexpr size_t kMaxConfigBytes = size_t{1} << 20;
constexpr size_t kMaxCpuInfoBytes = size_t{4} << 20;
constexpr size_t kBuildIdDigits = 12;

// Settings that change no number of a training.
constexpr absl::string_view kBystanders[] = {
    "name",         "model",    "dataset", "parent_model", "checkpoint.every_steps",
    "max_restarts", "priority", "ranks",   "min_ranks",    "activation_checkpointing"};

// Settings that have their default are left out: one that a later build adds changes nothing here.
std::string SettingsText(const JobSpec& spec) {
  const JobSpec defaults;
  std::string text;
  for (const Field& field : JobFields()) {
    if (absl::c_linear_search(kBystanders, field.key)) continue;
    const std::string value = FieldText(field, spec);
    if (value != FieldText(field, defaults)) absl::StrAppend(&text, field.key, "=", value, "\n");
  }
  return text;
}

std::vector<TensorSlice> SlicesOf(const FlatParameters& parameters) {
  std::vector<TensorSlice> slices;
  int64_t begin = 0;
  for (const AdapterTensor& entry : parameters.tensors()) {
    slices.push_back({entry.name, entry.tensor.sizes().vec(), begin});
    begin += entry.tensor.numel();
  }
  return slices;
}

ResumeProof ProofOf(double loss_sum, const at::Tensor& gradients) {
  return {std::bit_cast<uint64_t>(loss_sum), Sha256Hex(ViewOf("", gradients.cpu()).bytes)};
}

absl::StatusOr<at::Tensor> ReadState(const SafetensorsFile& state, const char* name,
                                     const at::Tensor& like) {
  const TensorView* const view = state.Find(name);
  if (view == nullptr) return absl::DataLossError(absl::StrCat("checkpoint: has no ", name));
  const TensorView expected = ViewOf(name, like);
  if (view->dtype != expected.dtype || view->shape != expected.shape) {
    return absl::DataLossError(absl::StrCat("checkpoint: ", name, " has ", view->bytes.size(),
                                            " bytes; must have ", expected.bytes.size()));
  }
  return at::from_blob(const_cast<char*>(view->bytes.data()), view->shape, like.scalar_type());
}

absl::StatusOr<TrainerState> StateOf(const Checkpoint& checkpoint, Trainer& trainer) {
  TrainerState state = trainer.state();
  state.num_done = checkpoint.manifest.step;
  state.ledger = checkpoint.manifest.ledger;
  for (const auto& [name, tensor] :
       {std::pair(kValues, &state.values), std::pair(kFirstMoments, &state.first_moments),
        std::pair(kSecondMoments, &state.second_moments)}) {
    LATHE_ASSIGN_OR_RETURN(*tensor, ReadState(checkpoint.state, name, tensor->cpu()));
  }
  return state;
}

// "Intel(R) Xeon(R) Processor, cpu family 6, model 143, stepping 8": of the first processor, as far
// as the kernel says.
std::string CpuModel() {
  const absl::StatusOr<std::string> info = ReadFile("/proc/cpuinfo", kMaxCpuInfoBytes);
  if (!info.ok()) return "";
  std::string name;
  std::string numbers;
  for (const absl::string_view line : absl::StrSplit(*info, '\n')) {
    if (line.empty()) break;
    const std::pair<absl::string_view, absl::string_view> field =
        absl::StrSplit(line, absl::MaxSplits(": ", 1));
    const absl::string_view key = absl::StripTrailingAsciiWhitespace(field.first);
    if (key == "model name") name = std::string(field.second);
    if (key == "cpu family" || key == "model" || key == "stepping") {
      absl::StrAppend(&numbers, ", ", key, " ", field.second);
    }
  }
  return name + numbers;
}

// The bytes of the program that runs: another build may round otherwise.
std::string BuildId() {
  const absl::StatusOr<std::string> sha256 = Sha256OfFile("/proc/self/exe");
  return sha256.ok() ? sha256->substr(0, kBuildIdDigits) : "unknown";
}

absl::Status Judge(const CheckpointManifest& manifest, const std::string& machine,
                   const ResumeProof& proof, Resumed& resumed) {
  if (proof == manifest.proof) {
    resumed.verified = true;
    LogInfo(absl::StrCat("resumed after step ", manifest.step,
                         ": the first micro-batch has the bits that it had before"));
    return absl::OkStatus();
  }
  const std::string what = absl::StrCat("resumed after step ", manifest.step,
                                        ": the first micro-batch has other bits than before");
  if (machine == manifest.machine && !machine.empty()) return absl::DataLossError(what);
  LogWarning(absl::StrCat(what, "; the checkpoint is of '", manifest.machine, "', this is '",
                          machine, "'"));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<CheckpointContext> ContextOf(const JobSpec& spec, const fs::path& model_dir,
                                            const fs::path& shard_dir) {
  LATHE_ASSIGN_OR_RETURN(const std::string config,
                         ReadFile(model_dir / "config.json", kMaxConfigBytes));
  std::error_code error;
  const auto size = fs::file_size(model_dir / "model.safetensors", error);
  if (error) return ErrnoToStatus(error.value(), "model.safetensors: size");
  LATHE_ASSIGN_OR_RETURN(const std::string rows, Sha256OfFile(shard_dir / "train.shard"));
  return CheckpointContext{{"settings", Sha256Hex(SettingsText(spec))},
                           {"base", absl::StrCat(Sha256Hex(config), ", ", size, " bytes")},
                           {"rows", rows}};
}

std::string DescribeMachine(const std::string& device, int threads) {
  if (device != "cpu") return "";
  return absl::StrCat(CpuModel(), ", ", at::get_cpu_capability(), ", libtorch ", TORCH_VERSION,
                      ", build ", BuildId(), ", ", threads, threads == 1 ? " thread" : " threads");
}

Checkpointer::Checkpointer(Options options, Trainer& trainer)
    : options_(std::move(options)), trainer_(trainer), writer_(options_.writer) {}

Checkpointer::~Checkpointer() { trainer_.ProbeNextStep(nullptr); }

bool Checkpointer::IsDue() const {
  const int64_t done = trainer_.num_done();
  return done % options_.every_steps == 0 && done != trainer_.num_steps();
}

void Checkpointer::AfterStep() {
  // Asked first: one that is not busy has told its outcome, which belongs to `step_`.
  const bool busy = writer_.busy();
  TellOutcome();
  if (!IsDue()) return;
  if (busy) {
    LogWarning(absl::StrCat("no checkpoint after step ", trainer_.num_done(), ": that of step ",
                            step_, " is still being written"));
    return;
  }
  Begin();
}

absl::Status Checkpointer::WriteNow() {
  if (trainer_.num_done() == trainer_.num_steps()) return absl::OkStatus();
  Finish();
  Begin();
  LATHE_RETURN_IF_ERROR(trainer_.RunProbe());
  Finish();
  return absl::OkStatus();
}

void Checkpointer::Finish() {
  writer_.Wait();
  TellOutcome();
}

void Checkpointer::Begin() {
  const TrainerState state = trainer_.state();
  const at::Tensor values = state.values.cpu();
  const at::Tensor first = state.first_moments.cpu();
  const at::Tensor second = state.second_moments.cpu();
  CheckpointManifest manifest;
  manifest.step = state.num_done;
  manifest.attempt = options_.attempt;
  manifest.ledger = state.ledger;
  manifest.context = options_.context;
  manifest.machine = options_.machine;
  manifest.slices = SlicesOf(trainer_.parameters());
  step_ = state.num_done;
  writer_.Begin(
      {ViewOf(kValues, values), ViewOf(kFirstMoments, first), ViewOf(kSecondMoments, second)});
  trainer_.ProbeNextStep(
      [this, manifest = std::move(manifest)](double loss_sum, const at::Tensor& gradients) mutable {
        manifest.proof = ProofOf(loss_sum, gradients);
        writer_.Complete(std::move(manifest));
        return absl::OkStatus();
      });
}

void Checkpointer::TellOutcome() {
  const auto outcome = writer_.TakeOutcome();
  if (!outcome) return;
  if (outcome->ok()) {
    options_.published(**outcome, step_);
  } else {
    LogWarning(absl::StrCat("no checkpoint after step ", step_, ": ", outcome->status().message()));
  }
}

absl::Status ResumeFrom(const Checkpoint& checkpoint, const CheckpointContext& context,
                        const std::string& machine, bool prove, Trainer& trainer,
                        Resumed& resumed) {
  const CheckpointManifest& manifest = checkpoint.manifest;
  LATHE_RETURN_IF_ERROR(Annotate(CheckContext(manifest, context), "checkpoint"));
  if (manifest.step >= trainer.num_steps() || manifest.slices != SlicesOf(trainer.parameters())) {
    return absl::FailedPreconditionError("checkpoint: is of other tensors or of more steps");
  }
  LATHE_ASSIGN_OR_RETURN(const TrainerState state, StateOf(checkpoint, trainer));
  trainer.Restore(state);
  resumed.step = manifest.step;
  if (!prove) return absl::OkStatus();
  trainer.ProbeNextStep(
      [manifest, machine, &resumed](double loss_sum, const at::Tensor& gradients) {
        return Judge(manifest, machine, ProofOf(loss_sum, gradients), resumed);
      });
  return absl::OkStatus();
}

}  // namespace lathe
