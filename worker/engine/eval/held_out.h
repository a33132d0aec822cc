#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "worker/data/shard.h"
#include "worker/engine/dist/communicator.h"
#include "worker/engine/model/language_model.h"
#include "worker/engine/train/train_observer.h"

namespace lathe {

// Loss and accuracy over all rows of `rows`, computed by all ranks of `group` together; every rank
// gets the same numbers. Sum of losses and number of tokens are reduced by themselves, then
// divided. `adapter` empty: the base. No rows or no trained token: zeros. FailedPrecondition: the
// loss is not finite. Unavailable: a peer is gone.
absl::StatusOr<Evaluation> EvaluateHeldOut(LanguageModel& model, const std::string& adapter,
                                           const Shard& rows, int64_t micro_batch_tokens,
                                           Communicator& group, TrainObserver& observer);

}  // namespace lathe
