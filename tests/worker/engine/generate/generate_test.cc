#include "worker/engine/generate/batch_generator.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>

#include "tests/worker/engine/model/model_fixture.h"

namespace lathe {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

at::Tensor LogitsOf(const std::vector<double>& probabilities) {
  at::Tensor logits = at::empty({static_cast<int64_t>(probabilities.size())}, at::kDouble);
  for (size_t i = 0; i < probabilities.size(); ++i) {
    logits[static_cast<int64_t>(i)] = std::log(probabilities[i]);
  }
  return logits;
}

std::vector<int32_t> Ids(const std::vector<Candidate>& candidates) {
  std::vector<int32_t> ids;
  for (const Candidate& candidate : candidates) ids.push_back(candidate.id);
  return ids;
}

TEST(CandidatesTest, TopPKeepsTheSmallestSetThatReachesTheMass) {
  const at::Tensor logits = LogitsOf({0.1, 0.5, 0.15, 0.25});
  EXPECT_THAT(Ids(Candidates(logits, {.temperature = 1, .top_p = 0.4})), ElementsAre(1));
  EXPECT_THAT(Ids(Candidates(logits, {.temperature = 1, .top_p = 0.7})), ElementsAre(1, 3));
  EXPECT_THAT(Ids(Candidates(logits, {.temperature = 1, .top_p = 0.8})), ElementsAre(1, 3, 2));
  const auto two = Candidates(logits, {.temperature = 1, .top_p = 0.7});
  EXPECT_NEAR(two[0].probability, 0.5 / 0.75, 1e-12);
  EXPECT_NEAR(two[1].probability, 0.25 / 0.75, 1e-12);
}

TEST(CandidatesTest, TopKKeepsTheMostLikelyAndThoseAsLikelyAsTheLast) {
  const at::Tensor logits = LogitsOf({0.1, 0.4, 0.2, 0.3});
  const auto two = Candidates(logits, {.temperature = 1, .top_k = 2});
  EXPECT_THAT(Ids(two), ElementsAre(1, 3));
  EXPECT_NEAR(two[0].probability, 4.0 / 7, 1e-6);
  EXPECT_THAT(Ids(Candidates(LogitsOf({0.2, 0.4, 0.2, 0.2}), {.temperature = 1, .top_k = 2})),
              ElementsAre(0, 1, 2, 3));
  EXPECT_EQ(Candidates(logits, {.temperature = 1, .top_k = 9}).size(), 4U);
  // top_p sees what top_k has left: 4 / 7 of it is the first token.
  EXPECT_THAT(Ids(Candidates(logits, {.temperature = 1, .top_p = 0.57, .top_k = 2})),
              ElementsAre(1));
}

TEST(PenalizeRepetitionTest, DividesPositiveLogitsAndMultipliesNegativeOnesOnce) {
  const at::Tensor logits = at::tensor({3.0, -1.0, 2.0, -4.0});
  const at::Tensor changed = PenalizeRepetition(logits, {0, 3, 0}, 2);
  EXPECT_TRUE(at::equal(changed, at::tensor({1.5, -1.0, 2.0, -8.0}))) << changed;
  EXPECT_TRUE(at::equal(logits, at::tensor({3.0, -1.0, 2.0, -4.0})));
  EXPECT_TRUE(PenalizeRepetition(logits, {0}, 1).is_same(logits));
}

TEST(CandidatesTest, TemperatureRaisesProbabilitiesToItsInverse) {
  const auto cold = Candidates(LogitsOf({0.2, 0.8}), {.temperature = 0.5});
  EXPECT_NEAR(cold[0].probability, 0.04 / 0.68, 1e-12);
  const auto hot = Candidates(LogitsOf({0.2, 0.8}), {.temperature = 2});
  EXPECT_NEAR(hot[0].probability, std::sqrt(0.2) / (std::sqrt(0.2) + std::sqrt(0.8)), 1e-12);
}

TEST(CandidatesTest, HugeLogitsDoNotOverflow) {
  const auto all = Candidates(at::tensor({1e4, -1e4}), {.temperature = 0.01});
  EXPECT_EQ(all[0].probability, 1);
  EXPECT_EQ(all[1].probability, 0);
}

TEST(SampleTokenTest, FrequenciesOverPositionsAreTheProbabilities) {
  const at::Tensor logits = LogitsOf({0.1, 0.2, 0.3, 0.4});
  std::vector<double> counts(4, 0);
  constexpr int kDraws = 20000;
  for (int i = 0; i < kDraws; ++i) {
    ++counts[static_cast<size_t>(SampleToken(logits, {.temperature = 1, .seed = 3}, i))];
  }
  for (size_t i = 0; i < counts.size(); ++i) {
    const double p = 0.1 * static_cast<double>(i + 1);
    EXPECT_NEAR(counts[i] / kDraws, p, 5 * std::sqrt(p * (1 - p) / kDraws)) << i;
  }
}

TEST(SampleTokenTest, IsAFunctionOfSeedAndPosition) {
  const at::Tensor logits = at::zeros({1000});
  const auto draw = [&](uint64_t seed, int64_t position) {
    return SampleToken(logits, {.temperature = 1, .seed = seed}, position);
  };
  EXPECT_EQ(draw(1, 5), draw(1, 5));
  EXPECT_NE(draw(1, 5), draw(1, 6));
  EXPECT_NE(draw(1, 5), draw(2, 5));
}

TEST(SampleTokenTest, TemperatureZeroTakesTheFirstOfTheBest) {
  EXPECT_EQ(SampleToken(at::tensor({1.0, 3.0, 3.0, 2.0}), {}, 0), 1);
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_THROW(SampleToken(at::tensor({1.0, nan}), {}, 0), c10::Error);
}

TEST(OptionsTest, OutOfRangeValuesAreNamed) {
  const auto message = [](const GenerateOptions& options) {
    return std::string(options.Validate().message());
  };
  EXPECT_THAT(message({.max_tokens = 0}), HasSubstr("max_tokens is 0; must be in [1, "));
  EXPECT_THAT(message({.sample = {.temperature = -1}}), HasSubstr("temperature is -1"));
  EXPECT_THAT(message({.sample = {.top_p = 0}}), HasSubstr("top_p is 0; must be in (0, 1]"));
  EXPECT_THAT(message({.sample = {.top_p = NAN}}), HasSubstr("top_p is nan"));
  EXPECT_THAT(message({.sample = {.top_k = -1}}), HasSubstr("top_k is -1; must be at least 1"));
  EXPECT_THAT(message({.sample = {.repetition_penalty = 0}}),
              HasSubstr("repetition_penalty is 0; must be in (0, 10]"));
  EXPECT_THAT(message({.stop_strings = std::vector<std::string>(17, "x")}), HasSubstr("17 stop"));
  EXPECT_TRUE(GenerateOptions{}.Validate().ok());
}

TEST(StopStringsTest, EndsBeforeTheStringWhereverThePiecesAreCut) {
  const std::string text = "one STOP two";
  for (size_t cut = 0; cut <= text.size(); ++cut) {
    StopStrings stops({"STOP", "two"});
    std::string out = stops.Push(text.substr(0, cut));
    out += stops.Push(text.substr(cut));
    out += stops.Finish();
    EXPECT_EQ(out, "one ") << cut;
    EXPECT_TRUE(stops.found());
  }
}

TEST(StopStringsTest, TextThatOnlyBeginsLikeOneComesOutInTheEnd) {
  StopStrings stops({"abcd", ""});
  EXPECT_EQ(stops.Push("xab"), "x");
  EXPECT_EQ(stops.Push("c"), "");
  EXPECT_EQ(stops.Push("abc"), "abc");
  EXPECT_EQ(stops.Finish(), "abc");
  EXPECT_FALSE(stops.found());
}

// A batch of one.
absl::StatusOr<Generation> Generate(LanguageModel& model, const std::vector<int32_t>& prompt,
                                    const std::string& adapter, const GenerateOptions& options,
                                    const TokenCallback& on_token) {
  BatchGenerator generator(model);
  Generation result;
  const absl::Status status =
      generator.Add(prompt, adapter, options, on_token, [&](const Generation& g) { result = g; });
  if (!status.ok()) return status;
  while (generator.num_open() > 0) generator.Step();
  return result;
}

class GenerateTest : public testing::Test {
 protected:
  GenerateTest() : golden_(ReadJson(DataFolder() / "goldens" / "greedy.json")) {
    prompt_ = golden_.at("prompts")[0].get<std::vector<int32_t>>();
    answer_ = golden_.at("adapter")[0].get<std::vector<int32_t>>();
  }
  absl::StatusOr<Generation> Run(const GenerateOptions& options,
                                 std::vector<int32_t>* seen = nullptr, size_t stop_after = 1000) {
    return Generate(*model_, prompt_, "tuned", options, [&](int32_t id) {
      if (seen != nullptr) seen->push_back(id);
      return --stop_after > 0;
    });
  }

  std::unique_ptr<LanguageModel> model_ = LoadTiny(/*fp64=*/false);
  nlohmann::json golden_;
  std::vector<int32_t> prompt_;
  std::vector<int32_t> answer_;
};

TEST_F(GenerateTest, GreedyIsTheGoldenAnswerAndEndsByLength) {
  std::vector<int32_t> seen;
  const auto result = Run({.max_tokens = static_cast<int>(answer_.size())}, &seen);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->ids, answer_);
  EXPECT_EQ(seen, answer_);
  EXPECT_EQ(result->finish, FinishReason::kLength);
}

TEST_F(GenerateTest, ARepetitionPenaltyCountsPromptAndAnswer) {
  // With the greatest penalty on positive logits no token of the prompt is taken while others are
  // positive, and none comes twice.
  const auto result = Run({.max_tokens = 12, .sample = {.repetition_penalty = 10}});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(std::set<int32_t>(result->ids.begin(), result->ids.end()).size(), result->ids.size());
  for (const int32_t id : result->ids) EXPECT_THAT(prompt_, testing::Not(testing::Contains(id)));
}

TEST_F(GenerateTest, AStopIdEndsTheAnswerAndIsNotShown) {
  const int32_t stop = answer_[3];
  const auto first = std::find(answer_.begin(), answer_.end(), stop);
  std::vector<int32_t> seen;
  const auto result = Run({.max_tokens = 20, .stop_ids = {stop}}, &seen);
  EXPECT_EQ(result->finish, FinishReason::kStop);
  EXPECT_EQ(seen, std::vector<int32_t>(answer_.begin(), first));
  EXPECT_EQ(result->ids, std::vector<int32_t>(answer_.begin(), first + 1));
}

TEST_F(GenerateTest, TheCallbackCanEndIt) {
  const auto result = Run({.max_tokens = 20}, nullptr, 2);
  EXPECT_EQ(result->ids.size(), 2U);
  EXPECT_EQ(result->finish, FinishReason::kCancelled);
}

TEST_F(GenerateTest, SampledTokensDependOnTheSeedAlone) {
  const auto draw = [&](uint64_t seed) {
    return Run({.max_tokens = 20, .sample = {.temperature = 5, .seed = seed}})->ids;
  };
  EXPECT_EQ(draw(1), draw(1));
  EXPECT_NE(draw(1), draw(2));
}

TEST_F(GenerateTest, APromptThatIsEmptyOrLeavesNoRoomIsRefused) {
  prompt_.clear();
  EXPECT_THAT(std::string(Run({}).status().message()),
              HasSubstr("has 0 tokens; must have 1 to 511"));
  prompt_.assign(512, 1);
  EXPECT_THAT(std::string(Run({}).status().message()), HasSubstr("has 512 tokens"));
  prompt_.assign(510, 1);
  EXPECT_EQ(Run({})->ids.size(), 2U);
}

// Shows each id as a letter and holds the last one back until the end.
struct LetterDecoder {
  std::string Push(int32_t id) { return std::exchange(held, std::string(1, Letter(id))); }
  std::string Finish() { return std::exchange(held, ""); }
  static char Letter(int32_t id) { return static_cast<char>('a' + id % 26); }
  std::string held;
};

TEST_F(GenerateTest, TextStopsBeforeAStopStringAndIsWholeWithoutOne) {
  std::string whole;
  for (const int32_t id : answer_) whole += LetterDecoder::Letter(id);
  const auto text_of = [&](std::vector<std::string> stops, FinishReason expected) {
    std::string text;
    LetterDecoder decoder;
    GenerateOptions options = {.max_tokens = static_cast<int>(answer_.size())};
    options.stop_strings = std::move(stops);
    TextStream stream(decoder, options.stop_strings, [&](const std::string& piece) {
      text += piece;
      return true;
    });
    const auto result =
        Generate(*model_, prompt_, "tuned", options, [&](int32_t id) { return stream.Push(id); });
    EXPECT_EQ(stream.Finish(result->finish), expected);
    return text;
  };
  EXPECT_EQ(text_of({}, FinishReason::kLength), whole);
  const std::string stop = whole.substr(5, 2);
  EXPECT_EQ(text_of({stop}, FinishReason::kStop), whole.substr(0, whole.find(stop)));
}

// Every prompt of the golden with options of its own.
class BatchGeneratorTest : public GenerateTest {
 protected:
  struct Question {
    std::vector<int32_t> prompt;
    std::string adapter;
    GenerateOptions options;
  };

  std::vector<Question> Questions(bool greedy, bool with_base) const {
    std::vector<Question> questions;
    for (const auto& prompt : golden_.at("prompts")) {
      const size_t i = questions.size();
      Question question{
          prompt.get<std::vector<int32_t>>(), with_base && i % 2 == 1 ? "" : "tuned", {}};
      question.options.max_tokens = 12 + static_cast<int>(i);
      if (!greedy) {
        question.options.sample = {.temperature = 1.5, .top_p = 0.9, .seed = i + 1};
        question.options.sample.repetition_penalty = i % 2 == 0 ? 1 : 1.3;
      }
      questions.push_back(std::move(question));
    }
    return questions;
  }

  // The answers in the order of the questions.
  static std::vector<Generation> Together(BatchGenerator& generator,
                                          const std::vector<Question>& questions,
                                          size_t steps_between = 0) {
    std::vector<Generation> answers(questions.size());
    for (size_t i = 0; i < questions.size(); ++i) {
      const Question& q = questions[i];
      EXPECT_TRUE(generator
                      .Add(
                          q.prompt, q.adapter, q.options, [](int32_t) { return true; },
                          [&answers, i](const Generation& made) { answers[i] = made; })
                      .ok());
      for (size_t step = 0; step < steps_between; ++step) generator.Step();
    }
    while (generator.num_open() > 0) generator.Step();
    return answers;
  }

  void ExpectAsAlone(const std::vector<Question>& questions,
                     const std::vector<Generation>& answers) {
    for (size_t i = 0; i < questions.size(); ++i) {
      const Question& q = questions[i];
      const auto alone =
          Generate(*model_, q.prompt, q.adapter, q.options, [](int32_t) { return true; });
      EXPECT_EQ(answers[i].ids, alone->ids) << i;
      EXPECT_EQ(answers[i].finish, alone->finish) << i;
    }
  }
};

TEST_F(BatchGeneratorTest, GreedyAnswersAreTheGoldenOnesInOnePassPerToken) {
  std::vector<Question> questions = Questions(/*greedy=*/true, /*with_base=*/false);
  ASSERT_GE(questions.size(), 3U);
  for (Question& question : questions) question.options.max_tokens = 20;
  BatchGenerator generator(*model_);
  const std::vector<Generation> answers = Together(generator, questions);
  for (size_t i = 0; i < answers.size(); ++i) {
    EXPECT_EQ(answers[i].ids, golden_.at("adapter")[i].get<std::vector<int32_t>>()) << i;
  }
  EXPECT_EQ(generator.num_passes(), 20);
}

TEST_F(BatchGeneratorTest, SampledAnswersAreThoseThatEachSeedGivesAlone) {
  const std::vector<Question> questions = Questions(/*greedy=*/false, /*with_base=*/false);
  BatchGenerator generator(*model_);
  ExpectAsAlone(questions, Together(generator, questions));
  EXPECT_EQ(generator.num_passes(), 11 + static_cast<int64_t>(questions.size()));
}

TEST_F(BatchGeneratorTest, AQuestionThatComesLaterJoinsAndAnAdapterCostsAPassOfItsOwn) {
  std::vector<Question> questions = Questions(/*greedy=*/false, /*with_base=*/true);
  questions[0].options.stop_ids = {
      Generate(*model_, questions[0].prompt, "tuned", questions[0].options, [](int32_t) {
        return true;
      })->ids[2]};
  BatchGenerator generator(*model_);
  ExpectAsAlone(questions, Together(generator, questions, /*steps_between=*/2));
}

TEST_F(BatchGeneratorTest, LongPromptsAreReadOneAfterTheOther) {
  std::vector<Question> questions = Questions(/*greedy=*/true, /*with_base=*/false);
  questions.resize(1);
  questions[0].prompt.assign(500, 7);
  questions[0].options.max_tokens = 2;
  questions.resize(10, questions[0]);  // 5000 tokens, of which a pass reads 4096.
  BatchGenerator generator(*model_);
  const std::vector<Generation> answers = Together(generator, questions);
  EXPECT_EQ(generator.num_passes(), 3);
  for (const Generation& answer : answers) EXPECT_EQ(answer.ids, answers[0].ids);
}

TEST_F(BatchGeneratorTest, OneThatIsCancelledLeavesTheOthersAlone) {
  const std::vector<Question> questions = Questions(/*greedy=*/true, /*with_base=*/false);
  BatchGenerator generator(*model_);
  Generation cancelled;
  ASSERT_TRUE(generator
                  .Add(
                      questions[0].prompt, "tuned", {}, [](int32_t) { return false; },
                      [&](const Generation& made) { cancelled = made; })
                  .ok());
  EXPECT_TRUE(generator.Uses("tuned"));
  const std::vector<Question> others(questions.begin() + 1, questions.end());
  ExpectAsAlone(others, Together(generator, others));
  EXPECT_EQ(cancelled.finish, FinishReason::kCancelled);
  EXPECT_FALSE(generator.Uses("tuned"));
}

}  // namespace
}  // namespace lathe
