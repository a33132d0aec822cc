// Templates that somebody made to take time or memory: each ends in an error that names what ran
// out. Where nothing runs out, the work must not grow with the square of the input: CPU times of
// this process, side by side.

#include <pthread.h>

#include <ctime>
#include <functional>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/worker/text/text_fixture.h"

namespace lathe {
namespace {

using ::testing::HasSubstr;

std::string Repeated(absl::string_view text, int count) {
  std::string out;
  for (int i = 0; i < count; ++i) absl::StrAppend(&out, text);
  return out;
}

// What loading or rendering says.
std::string FaultOf(const std::string& source) {
  const auto model = LoadTextModel(TextSpec{.chat_template = source});
  if (!model.ok()) return std::string(model.status().message());
  const Conversation conversation = {{Role::kUser, "u"}, {Role::kAssistant, "a"}};
  return std::string((*model)->RenderText(conversation, false).status().message());
}

double CpuSeconds() {
  timespec time{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

// How many times the work of body(small) body(large) takes.
double WorkRatio(const std::function<void(int)>& body, int small, int large) {
  const double start = CpuSeconds();
  body(small);
  const double between = CpuSeconds();
  body(large);
  return (CpuSeconds() - between) / (between - start);
}

std::string ManyNames(const std::string& before, const std::string& after, int count) {
  std::string out;
  for (int i = 0; i < count; ++i) absl::StrAppend(&out, before, i, after);
  return out;
}

TEST(TemplateBoundsTest, LookingThroughManyNamesTakesSteps) {
  const std::string loop = "{% for i in range(100000) %}{{ x }}{% endfor %}";
  EXPECT_THAT(FaultOf(ManyNames("{%set a", "=1%}", 60000) + loop), HasSubstr("steps allowed"));
  EXPECT_THAT(FaultOf("{%set n=namespace()%}" + ManyNames("{%set n.a", "=1%}", 50000) +
                      "{% for i in range(100000) %}{{ n.x }}{% endfor %}"),
              HasSubstr("steps allowed"));
  EXPECT_THAT(FaultOf("{% for i in range(9) %}{% set d = {" + ManyNames("'a", "':1,", 80000) +
                      "} %}{% endfor %}"),
              HasSubstr("steps allowed"));
}

TEST(TemplateBoundsTest, LookingAtLongStringsTakesSteps) {
  const std::string strings = "{% set a = 'a' * 16000000 %}{% set b = 'a' * 16000000 %}";
  const std::string loop = "{% for i in range(100000) %}";
  EXPECT_THAT(FaultOf(strings + loop + "{% if a == b %}{% endif %}{% endfor %}"),
              HasSubstr("steps allowed"));
  EXPECT_THAT(FaultOf(strings + loop + "{% if a < b %}{% endif %}{% endfor %}"),
              HasSubstr("steps allowed"));
  EXPECT_THAT(FaultOf("{% set c = 'b' * 8000000 ~ 'a' %}{{ ('a' * 8000000)|trim(c) }}"),
              HasSubstr("steps allowed"));
}

TEST(TemplateBoundsTest, CopiesOfLongStringsTakeBytes) {
  const std::string list = "{% set a = ['A' * 16000000] * 1000 %}";
  EXPECT_THAT(FaultOf(list + "{% set x = a|sort %}"), HasSubstr("bytes allowed"));
  EXPECT_THAT(FaultOf(list + "{% set x = a|max %}"), HasSubstr("bytes allowed"));
  EXPECT_THAT(FaultOf("{{ ([1] * 100000)|tojson(separators=('x' * 8000000, ':')) }}"),
              HasSubstr("bytes allowed"));
  EXPECT_THAT(FaultOf("{{ ([{'k' ~ 'y' * 8000000: 1}] * 1000)|tojson }}"),
              ::testing::AnyOf(HasSubstr("bytes allowed"), HasSubstr("must be")));
  EXPECT_THAT(FaultOf("{% set a = ['\\x01' * 8000000] * 30 %}{{ a|tojson }}"),
              HasSubstr("bytes allowed"));
  EXPECT_THAT(FaultOf("{% set a = ['\\x01' * 8000000] * 30 %}{{ a }}"), HasSubstr("bytes allowed"));
}

TEST(TemplateBoundsTest, ListsAndDictsThatAreOnlyCutTakeNoCopies) {
  const auto cut = [](int length) {
    EXPECT_EQ(FaultOf(absl::StrCat("{% set a = [1] * ", length, " %}{% for i in range(10000) %}",
                                   "{% set b = a[3:4] %}{% endfor %}")),
              "");
  };
  EXPECT_LT(WorkRatio(cut, 500, 500000), 100) << "with copies it would be 1000";
}

TEST(TemplateBoundsTest, PathsOfAnAttributeTakeSteps) {
  EXPECT_THAT(FaultOf("{% for i in range(1000) %}{% set x = ['a']|map(attribute='0" +
                      Repeated(".0", 50000) + "')|list %}{% endfor %}"),
              HasSubstr("steps allowed"));
}

TEST(TemplateBoundsTest, RawTextIsReadOnce) {
  const auto openings = [](int count) {
    EXPECT_THAT(FaultOf("{% raw %}" + Repeated("{%", count)), HasSubstr("no end"));
  };
  EXPECT_LT(WorkRatio(openings, 10000, 500000), 100) << "read again at each, it would be 2500";
  const auto almost_ends = [](int count) {
    EXPECT_THAT(FaultOf("{% raw %}" + Repeated("{%endraw", count) + "%"), HasSubstr("no end"));
  };
  EXPECT_LT(WorkRatio(almost_ends, 2400, 120000), 100) << "read again at each, it would be 2500";
}

TEST(TemplateBoundsTest, ArgumentsAreCounted) {
  EXPECT_THAT(FaultOf("{{ dict(" + ManyNames("a", "=1,", 300) + ") }}"),
              HasSubstr("more than the 255 arguments allowed"));
  EXPECT_THAT(FaultOf("{% macro f(" + ManyNames("a", ",", 300) + ") %}{% endmacro %}"),
              HasSubstr("more than the 255 arguments allowed"));
}

TEST(TemplateBoundsTest, NumbersThatDoNotFitAreNoPanic) {
  const std::string least = "(-170141183460469231731687303715884105727 - 1)";
  for (const std::string& source :
       std::vector<std::string>{"{{ " + least + "|abs }}", "{{ " + least + " is divisibleby(-1) }}",
                                "{{ range(" + least + ", 5, " + least + ") }}",
                                "{{ range(0, 170141183460469231731687303715884105727, "
                                "170141183460469231731687303715884105727) }}",
                                "{{ " + least + " // -1 }}", "{{ [" + least + "][" + least + "] }}",
                                "{{ 'abc'[" + least + ":" + least + ":" + least + "] }}"}) {
    EXPECT_THAT(FaultOf(source), ::testing::Not(HasSubstr("gave up"))) << source;
  }
}

// Whole numbers that are equal as floats are not equal to each other: no order for a sort.
TEST(TemplateBoundsTest, SortingWhatHasNoOrderIsNoPanic) {
  EXPECT_THAT(FaultOf("{% set a = [9007199254740993, 9007199254740992.0, 9007199254740992] %}"
                      "{{ (a * 50)|sort|length }}"),
              "");
  EXPECT_THAT(FaultOf("{{ ([1, 'a', none] * 50)|sort }}"), HasSubstr("cannot order"));
}

// The answers of a template that writes something else each time are rendered once each.
TEST(TemplateBoundsTest, DifferentWordsWithinAnAnswerAreNoNewRenderings) {
  const std::string source =
      "{% for m in messages %}{% if m.role == 'assistant' %}{% for c in m.content %}{{ loop.index "
      "}}"
      "{{ c }}{% endfor %}{% else %}{{ m.content }}{% endif %}{% endfor %}"
      "{% for i in range(100000) %}{% endfor %}";
  const auto model = LoadTextModel(TextSpec{.chat_template = source});
  ASSERT_TRUE(model.ok()) << model.status();
  const auto render = [&](int length) {
    const std::string answer(static_cast<size_t>(length), 'x');
    EXPECT_TRUE((*model)->Render({{Role::kUser, "u"}, {Role::kAssistant, answer}}, false).ok());
  };
  EXPECT_LT(WorkRatio(render, 1, 5000), 100) << "a rendering per letter would be 5000";
}

// The deepest recursion that is allowed must fit a thread's stack wherever templates run.
TEST(TemplateBoundsTest, TheDeepestRecursionFitsAStackOfTwoMegabytes) {
  const std::string deep = "{% macro f(n) %}" + Repeated("{% if 1 %}", 20) +
                           "{{ (((((f(n + 1)))))) }}" + Repeated("{% endif %}", 20) +
                           "{% endmacro %}{{ f(0) }}";
  const std::string chain = "{{ 1" + Repeated("+1", 390) + " }}";
  const std::string brackets = "{{ " + Repeated("[", 90) + "1" + Repeated("]", 90) + " }}";
  std::function<void()> body = [&] {
    EXPECT_THAT(FaultOf(deep), HasSubstr("recursion"));
    EXPECT_EQ(FaultOf(chain), "");
    EXPECT_EQ(FaultOf(brackets), "");
  };
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, size_t{2} << 20);
  pthread_t thread{};
  const auto run = [](void* argument) -> void* {
    (*static_cast<std::function<void()>*>(argument))();
    return nullptr;
  };
  ASSERT_EQ(pthread_create(&thread, &attributes, run, &body), 0);
  pthread_join(thread, nullptr);
}

}  // namespace
}  // namespace lathe
