#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <string>

#include "worker/engine/model/language_model.h"
#include "worker/engine/model/language_model_tensors.h"

// usage: lathe-step-bench MODEL_DIR [THREADS [TOKENS [LABELS [STEPS]]]]
// Forward and backward passes of one packed micro-batch of three documents, LoRA rank 8 on all
// linear layers; then greedy decoding. CPU time beside wall time, because machines are shared.

namespace lathe {
namespace {

PackedBatch MakeBatch(int tokens, int labels, int64_t vocabulary) {
  PackedBatch batch;
  batch.document_begin = {0, tokens / 2, tokens / 2 + tokens / 4, tokens};
  for (size_t d = 0; d + 1 < batch.document_begin.size(); ++d) {
    for (int t = batch.document_begin[d]; t < batch.document_begin[d + 1]; ++t) {
      batch.ids.push_back(static_cast<int32_t>((int64_t{t} * 7919 + 13) % vocabulary));
      batch.positions.push_back(t - batch.document_begin[d]);
    }
  }
  for (int i = 0; i < labels; ++i) {
    const int t = static_cast<int>(int64_t{i} * (tokens - 1) / labels);
    batch.label_positions.push_back(t);
    batch.labels.push_back(batch.ids[static_cast<size_t>(t) + 1]);
  }
  return batch;
}

void Measure(const char* what, int count, int tokens, const std::function<void()>& body) {
  body();  // Warms allocator and page cache.
  double best_wall = 1e30;
  double best_cpu = 1e30;
  for (int i = 0; i < count; ++i) {
    const std::clock_t cpu = std::clock();
    const auto wall = std::chrono::steady_clock::now();
    body();
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - wall;
    best_wall = std::min(best_wall, elapsed.count());
    best_cpu = std::min(best_cpu, static_cast<double>(std::clock() - cpu) / CLOCKS_PER_SEC);
  }
  std::printf("%-18s best of %d: wall %7.1f ms, %6.1f tokens/s; cpu %7.1f ms, %6.1f tokens/s\n",
              what, count, 1e3 * best_wall, tokens / best_wall, 1e3 * best_cpu, tokens / best_cpu);
}

int Run(const std::string& dir, int threads, int tokens, int labels, int steps) {
  at::set_num_threads(threads);
  auto loaded = LanguageModel::Load(dir, {});
  if (loaded.ok()) {
    const absl::Status status = (*loaded)->AddAdapter("tuned", {}, 1);
    if (!status.ok()) loaded = status;
  }
  if (!loaded.ok()) {
    std::fprintf(stderr, "%s\n", loaded.status().ToString().c_str());
    return 1;
  }
  LanguageModel& model = **loaded;
  const PackedBatch batch = MakeBatch(tokens, labels, model.config().vocab_size);
  std::printf("%d tokens, %d labels, %d threads\n", tokens, labels, threads);
  Measure("forward+backward", steps, tokens,
          [&] { model.LossSum(batch, "tuned", true, 0).backward(); });
  Measure("evaluate", steps, tokens, [&] { model.Evaluate(batch, "tuned"); });
  const auto cache = model.NewCache();
  at::Tensor logits = model.Extend(*cache, batch.ids, "tuned");
  Measure("decode", 4 * steps, 1, [&] {
    logits = model.Extend(*cache, {static_cast<int32_t>(logits.argmax().item<int64_t>())}, "tuned");
  });
  return 0;
}

}  // namespace
}  // namespace lathe

int main(int argc, char** argv) {
  const auto number = [&](int index, int otherwise) {
    return argc > index ? std::atoi(argv[index]) : otherwise;
  };
  if (argc < 2) {
    std::fprintf(stderr, "usage: %s MODEL_DIR [THREADS [TOKENS [LABELS [STEPS]]]]\n", argv[0]);
    return 2;
  }
  return lathe::Run(argv[1], number(2, 1), number(3, 200), number(4, 120), number(5, 5));
}
