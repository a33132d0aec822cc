// Templates that somebody made to take time or memory: each ends in an error, soon.

#include <pthread.h>

#include <functional>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
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

// What loading or rendering says, within a bound that is far above what it takes.
std::string SoonFaultOf(const std::string& source) {
  const absl::Time start = absl::Now();
  const auto model = LoadTextModel(TextSpec{.chat_template = source});
  std::string fault(model.status().message());
  if (model.ok()) {
    const Conversation conversation = {{Role::kUser, "u"}, {Role::kAssistant, "a"}};
    fault = std::string((*model)->RenderText(conversation, false).status().message());
  }
  EXPECT_LT(absl::Now() - start, absl::Seconds(20)) << source.substr(0, 200);
  return fault;
}

std::string ManyNames(const std::string& before, const std::string& after, int count) {
  std::string out;
  for (int i = 0; i < count; ++i) absl::StrAppend(&out, before, i, after);
  return out;
}

TEST(TemplateBoundsTest, LookingThroughManyNamesTakesSteps) {
  const std::string loop = "{% for i in range(100000) %}{{ x }}{% endfor %}";
  EXPECT_THAT(SoonFaultOf(ManyNames("{%set a", "=1%}", 60000) + loop), HasSubstr("steps allowed"));
  EXPECT_THAT(SoonFaultOf("{%set n=namespace()%}" + ManyNames("{%set n.a", "=1%}", 50000) +
                          "{% for i in range(100000) %}{{ n.x }}{% endfor %}"),
              HasSubstr("steps allowed"));
  EXPECT_THAT(SoonFaultOf("{% for i in range(9) %}{% set d = {" + ManyNames("'a", "':1,", 80000) +
                          "} %}{% endfor %}"),
              HasSubstr("steps allowed"));
}

TEST(TemplateBoundsTest, LookingAtLongStringsTakesSteps) {
  const std::string strings = "{% set a = 'a' * 16000000 %}{% set b = 'a' * 16000000 %}";
  const std::string loop = "{% for i in range(100000) %}";
  EXPECT_THAT(SoonFaultOf(strings + loop + "{% if a == b %}{% endif %}{% endfor %}"),
              HasSubstr("steps allowed"));
  EXPECT_THAT(SoonFaultOf(strings + loop + "{% if a < b %}{% endif %}{% endfor %}"),
              HasSubstr("steps allowed"));
  EXPECT_THAT(SoonFaultOf("{% set c = 'b' * 8000000 ~ 'a' %}{{ ('a' * 8000000)|trim(c) }}"),
              HasSubstr("steps allowed"));
}

TEST(TemplateBoundsTest, CopiesOfLongStringsTakeBytes) {
  const std::string list = "{% set a = ['A' * 16000000] * 1000 %}";
  EXPECT_THAT(SoonFaultOf(list + "{% set x = a|sort %}"), HasSubstr("bytes allowed"));
  EXPECT_THAT(SoonFaultOf(list + "{% set x = a|max %}"), HasSubstr("bytes allowed"));
  EXPECT_THAT(SoonFaultOf("{{ ([1] * 100000)|tojson(separators=('x' * 8000000, ':')) }}"),
              HasSubstr("bytes allowed"));
  EXPECT_THAT(SoonFaultOf("{{ ([{'k' ~ 'y' * 8000000: 1}] * 1000)|tojson }}"),
              ::testing::AnyOf(HasSubstr("bytes allowed"), HasSubstr("must be")));
  EXPECT_THAT(SoonFaultOf("{% set a = ['\\x01' * 8000000] * 30 %}{{ a|tojson }}"),
              HasSubstr("bytes allowed"));
  EXPECT_THAT(SoonFaultOf("{% set a = ['\\x01' * 8000000] * 30 %}{{ a }}"),
              HasSubstr("bytes allowed"));
}

TEST(TemplateBoundsTest, ListsAndDictsThatAreOnlyCutTakeNoCopies) {
  EXPECT_EQ(SoonFaultOf("{% set a = [1] * 500000 %}{% for i in range(10000) %}{% set b = a[3:4] %}"
                        "{% endfor %}"),
            "");
}

TEST(TemplateBoundsTest, PathsOfAnAttributeTakeSteps) {
  EXPECT_THAT(SoonFaultOf("{% for i in range(1000) %}{% set x = ['a']|map(attribute='0" +
                          Repeated(".0", 50000) + "')|list %}{% endfor %}"),
              HasSubstr("steps allowed"));
}

TEST(TemplateBoundsTest, RawTextIsReadOnce) {
  EXPECT_THAT(SoonFaultOf("{% raw %}" + Repeated("{%", 500000)), HasSubstr("no end"));
  EXPECT_THAT(SoonFaultOf("{% raw %}" + Repeated("{%endraw", 120000) + "%"), HasSubstr("no end"));
}

TEST(TemplateBoundsTest, ArgumentsAreCounted) {
  EXPECT_THAT(SoonFaultOf("{{ dict(" + ManyNames("a", "=1,", 300) + ") }}"),
              HasSubstr("more than the 255 arguments allowed"));
  EXPECT_THAT(SoonFaultOf("{% macro f(" + ManyNames("a", ",", 300) + ") %}{% endmacro %}"),
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
    EXPECT_THAT(SoonFaultOf(source), ::testing::Not(HasSubstr("gave up"))) << source;
  }
}

// Whole numbers that are equal as floats are not equal to each other: no order for a sort.
TEST(TemplateBoundsTest, SortingWhatHasNoOrderIsNoPanic) {
  EXPECT_THAT(SoonFaultOf("{% set a = [9007199254740993, 9007199254740992.0, 9007199254740992] %}"
                          "{{ (a * 50)|sort|length }}"),
              "");
  EXPECT_THAT(SoonFaultOf("{{ ([1, 'a', none] * 50)|sort }}"), HasSubstr("cannot order"));
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
  const absl::Time start = absl::Now();
  EXPECT_TRUE((*model)
                  ->Render({{Role::kUser, "u"}, {Role::kAssistant, std::string(5000, 'x')}}, false)
                  .ok());
  EXPECT_LT(absl::Now() - start, absl::Seconds(20));
}

// The deepest recursion that is allowed must fit a thread's stack wherever templates run.
TEST(TemplateBoundsTest, TheDeepestRecursionFitsAStackOfTwoMegabytes) {
  const std::string deep = "{% macro f(n) %}" + Repeated("{% if 1 %}", 20) +
                           "{{ (((((f(n + 1)))))) }}" + Repeated("{% endif %}", 20) +
                           "{% endmacro %}{{ f(0) }}";
  const std::string chain = "{{ 1" + Repeated("+1", 390) + " }}";
  const std::string brackets = "{{ " + Repeated("[", 90) + "1" + Repeated("]", 90) + " }}";
  std::function<void()> body = [&] {
    EXPECT_THAT(SoonFaultOf(deep), HasSubstr("recursion"));
    EXPECT_EQ(SoonFaultOf(chain), "");
    EXPECT_EQ(SoonFaultOf(brackets), "");
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
