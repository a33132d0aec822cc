#include <ATen/ATen.h>
#include <ATen/record_function.h>
#include <c10/core/Allocator.h>
#include <c10/util/ThreadLocalDebugInfo.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>

#include "tests/worker/engine/model/model_fixture.h"
#include "worker/engine/model/language_model.h"

// What a training step costs, as counts that no other load on the machine changes.

namespace lathe {
namespace {

thread_local int64_t num_aten_calls = 0;

std::unique_ptr<at::ObserverContext> CountCall(const at::RecordFunction&) {
  ++num_aten_calls;
  return nullptr;
}

template <typename Body>
int64_t AtenCalls(const Body& body) {
  num_aten_calls = 0;
  const at::CallbackHandle handle = at::addThreadLocalCallback(
      at::RecordFunctionCallback(CountCall).scopes({at::RecordScope::FUNCTION}));
  body();
  at::removeCallback(handle);
  return num_aten_calls;
}

// Bytes of tensors on this thread, since construction.
class TensorBytes : public c10::MemoryReportingInfoBase {
 public:
  void reportMemoryUsage(void*, int64_t change, size_t, size_t, c10::Device) override {
    now_ += change;
    most_ = std::max(most_, now_);
  }
  bool memoryProfilingEnabled() const override { return true; }
  int64_t now() const { return now_; }
  int64_t most() const { return most_; }

 private:
  int64_t now_ = 0;
  int64_t most_ = 0;
};

PackedBatch TwoDocuments(int32_t length) {
  Row row;
  for (int32_t i = 0; i < length; ++i) {
    row.ids.push_back((i * 53 + 11) % 384);
    row.trained.push_back(i >= length / 2 ? 1 : 0);
  }
  return Pack({row, row});
}

TEST(StepCostTest, ALayerCallsAtenSoManyTimesForwardAndBackward) {
  const auto model = LoadTiny(/*fp64=*/false);
  const PackedBatch batch = TwoDocuments(50);
  const auto step = [&] { model->LossSum(batch, "tuned", true, 0).backward(); };
  step();
  const int64_t per_layer = AtenCalls(step) / model->config().num_layers;
  EXPECT_GT(per_layer, 0);
  EXPECT_LE(per_layer,
            800);  // 752; embedding and head are in it. Operations that call others count too.
}

// What the backward pass needs: hidden states before and after attention (2 D), their norms (2 D),
// q, k and v, the attention's output (H E), gate and up (2 I) and their product (I).
TEST(StepCostTest, ForwardKeepsTheInputsOfItsProductsAndNoCopies) {
  const auto model = LoadTiny(/*fp64=*/false);
  const ModelConfig& config = model->config();
  const PackedBatch batch = TwoDocuments(400);
  model->LossSum(batch, "tuned", true, 0).backward();
  const auto bytes = std::make_shared<TensorBytes>();
  const c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, bytes);
  const at::Tensor loss = model->LossSum(batch, "tuned", true, 0);
  const int64_t width = config.head_dim * config.num_heads;
  const int64_t values = 4 * config.hidden_size + width +
                         config.head_dim * (config.num_heads + 2 * config.num_kv_heads) +
                         3 * config.intermediate_size;
  const int64_t num_tokens = static_cast<int64_t>(batch.ids.size());
  const double per_token =
      static_cast<double>(bytes->now()) / static_cast<double>(4 * num_tokens * config.num_layers);
  // Inverse norms, A x of the adapter and the head's gradient come on top.
  EXPECT_GT(per_token, static_cast<double>(values));
  EXPECT_LE(per_token, 1.5 * static_cast<double>(values));
  loss.backward();
  // One chunk of logits, and gradients of one layer at a time: of two here.
  EXPECT_LE(static_cast<double>(bytes->most()),
            1.8 * static_cast<double>(4 * num_tokens * config.num_layers * values));
}

}  // namespace
}  // namespace lathe
