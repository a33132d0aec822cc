#include "worker/engine/generate/batch_generator.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

// B sequences of a pass, V vocabulary.

namespace lathe {
namespace {

absl::Status CheckPrompt(size_t num_tokens, const ModelConfig& config) {
  const auto limit = static_cast<size_t>(config.max_positions);
  if (num_tokens >= 1 && num_tokens < limit) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "the prompt has ", num_tokens, " tokens; must have 1 to ", limit - 1, " with this model"));
}

// The tokens that a repetition penalty counts: an encoder-decoder's are those of its decoder alone.
std::vector<int32_t> SeenTokens(const ModelConfig& config, const std::vector<int32_t>& prompt) {
  if (!config.encoder_decoder) return prompt;
  return {static_cast<int32_t>(config.encoder_decoder->start_id)};
}

}  // namespace

struct BatchGenerator::Sequence {
  std::string adapter;
  GenerateOptions options;
  TokenCallback on_token;
  EndCallback on_end;
  size_t limit = 0;  // Of new tokens.
  std::unique_ptr<KvCache> cache;
  std::vector<int32_t> pending;  // Not in the cache yet: the prompt, then the last token.
  std::vector<int32_t> seen;     // What a repetition penalty counts.
  Generation result = {};
  bool ended = false;
};

BatchGenerator::BatchGenerator(LanguageModel& model) : model_(model) {}
BatchGenerator::~BatchGenerator() = default;

absl::Status BatchGenerator::Add(const std::vector<int32_t>& prompt, const std::string& adapter,
                                 const GenerateOptions& options, TokenCallback on_token,
                                 EndCallback on_end) {
  LATHE_RETURN_IF_ERROR(options.Validate());
  LATHE_RETURN_IF_ERROR(CheckPrompt(prompt.size(), model_.config()));
  const size_t room = static_cast<size_t>(model_.config().max_positions) - prompt.size();
  open_.push_back(std::make_unique<Sequence>(
      Sequence{.adapter = adapter,
               .options = options,
               .on_token = std::move(on_token),
               .on_end = std::move(on_end),
               .limit = std::min(static_cast<size_t>(options.max_tokens), room),
               .cache = model_.NewCache(),
               .pending = prompt,
               .seen = SeenTokens(model_.config(), prompt)}));
  return absl::OkStatus();
}

void BatchGenerator::Step() {
  std::set<std::string> adapters;
  for (const auto& sequence : open_) adapters.insert(sequence->adapter);
  for (const std::string& adapter : adapters) StepAdapter(adapter);
  open_.remove_if([](const auto& sequence) { return sequence->ended; });
}

bool BatchGenerator::Uses(const std::string& adapter) const {
  return std::any_of(open_.begin(), open_.end(),
                     [&](const auto& sequence) { return sequence->adapter == adapter; });
}

void BatchGenerator::Clear() { open_.clear(); }

void BatchGenerator::StepAdapter(const std::string& adapter) {
  std::vector<Sequence*> batch;
  std::vector<SequencePart> parts;
  size_t num_tokens = 0;
  for (const auto& sequence : open_) {
    const size_t count = sequence->pending.size();
    if (sequence->adapter != adapter) continue;
    if (count > 1 && num_tokens > 0 && num_tokens + count > kMaxPassTokens) continue;
    num_tokens += count;
    batch.push_back(sequence.get());
    parts.push_back({sequence->cache.get(), sequence->pending});
  }
  const at::Tensor logits_BV = model_.Extend(parts, adapter);
  ++num_passes_;
  for (size_t i = 0; i < batch.size(); ++i) {
    batch[i]->ended = Take(*batch[i], logits_BV[static_cast<int64_t>(i)]);
    if (batch[i]->ended) batch[i]->on_end(batch[i]->result);
  }
}

bool BatchGenerator::Take(Sequence& sequence, const at::Tensor& logits) {
  const GenerateOptions& options = sequence.options;
  const at::Tensor penalized =
      PenalizeRepetition(logits, sequence.seen, options.sample.repetition_penalty);
  const int32_t id = SampleToken(penalized, options.sample, sequence.cache->length());
  sequence.result.ids.push_back(id);
  sequence.seen.push_back(id);
  sequence.pending = {id};
  if (std::find(options.stop_ids.begin(), options.stop_ids.end(), id) != options.stop_ids.end()) {
    sequence.result.finish = FinishReason::kStop;
    return true;
  }
  if (!sequence.on_token(id)) {
    sequence.result.finish = FinishReason::kCancelled;
    return true;
  }
  return sequence.result.ids.size() == sequence.limit;
}

}  // namespace lathe
