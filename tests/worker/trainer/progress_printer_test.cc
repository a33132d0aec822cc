#include "worker/trainer/progress_printer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <memory>

namespace lathe {
namespace {

StepStats Stats(int64_t step) {
  StepStats stats;
  stats.step = step;
  stats.num_steps = 90;
  stats.loss = 1.23456;
  stats.learning_rate = 2.9e-4;
  stats.grad_norm = 0.812;
  stats.tokens_per_second = 812.4;
  stats.remaining = absl::Milliseconds(80'700);
  return stats;
}

TEST(DescribeStepTest, IsOneLine) {
  EXPECT_EQ(DescribeStep(Stats(12)),
            "step 12/90  loss 1.2346  lr 2.90e-04  grad 0.812  812 tokens/s  1m20s left");
}

std::string Printed(bool terminal) {
  char* text = nullptr;
  size_t size = 0;
  std::FILE* file = open_memstream(&text, &size);
  {
    ProgressPrinter printer(file, terminal);
    printer.OnPhase("load");
    printer.OnPhase("train");
    printer.OnStep(Stats(1));
    printer.OnPhase("reduce");
    printer.OnStep(Stats(2));
    printer.OnEvaluation(false, {.loss = 1.5, .accuracy = 0.25, .tokens = 100, .rows = 7});
  }
  std::fclose(file);
  const std::unique_ptr<char, decltype(&std::free)> owner(text, &std::free);
  return {text, size};
}

TEST(ProgressPrinterTest, OffATerminalPrintsPlainLines) {
  const std::string text = Printed(false);
  EXPECT_EQ(text, "load\n" + DescribeStep(Stats(1)) + "\n" + DescribeStep(Stats(2)) +
                      "\nheld-out loss after training: 1.5000  accuracy 0.250  (7 rows, 100 "
                      "tokens)\n");
}

TEST(ProgressPrinterTest, OnATerminalRewritesOneLine) {
  const std::string text = Printed(true);
  EXPECT_THAT(text, ::testing::HasSubstr("\r\033[K[........................] step 2/90"));
  EXPECT_THAT(text, ::testing::HasSubstr("left\nheld-out loss after"));
}

}  // namespace
}  // namespace lathe
