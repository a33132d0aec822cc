#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <utility>

#include "absl/status/statusor.h"
#include "rust/cxx.h"
#include "tests/worker/text/text_fixture.h"
#include "textkit/bridge.h"

// Small templates, and what jinja2, set up by transformers, makes of them
// (tests/oracle/make_template_language.py).

namespace lathe {
namespace {

using Json = nlohmann::ordered_json;
using ::testing::HasSubstr;

rust::Vec<textkit::ChatMessage> ToMessages(const Json& messages) {
  rust::Vec<textkit::ChatMessage> out;
  for (const Json& json : messages) {
    Json fields = json;
    fields.erase("role");
    fields.erase("content");
    out.push_back({json["role"].get<std::string>(), /*has_content=*/true,
                   json["content"].get<std::string>(), fields.dump()});
  }
  return out;
}

// The bridge itself: a model folder for each of the templates would cost a minute.
class TemplateLanguageTest : public ::testing::Test {
 protected:
  absl::StatusOr<std::string> Render(const std::string& source) {
    rust::Vec<textkit::TemplateVariable> variables;
    variables.push_back({"bos_token", "<s>"});
    variables.push_back({"eos_token", "</s>"});
    try {
      const auto loaded = textkit::load_template(
          {reinterpret_cast<const uint8_t*>(source.data()), source.size()}, std::move(variables));
      return std::string(
          loaded->render_segments(messages_, tools_, /*generation_prompt=*/true).text);
    } catch (const rust::Error& error) {
      return absl::InvalidArgumentError(error.what());
    }
  }

  const Json goldens_ = Json::parse(ReadTestFile("tests/data/template-language/goldens.json"));
  const rust::Vec<textkit::ChatMessage> messages_ = ToMessages(goldens_["messages"]);
  const std::string tools_ = goldens_["tools"].dump();
};

// An error says why; one for what we lack also where, and by its name.
void ExpectRefusal(const Json& golden, const absl::StatusOr<std::string>& text) {
  ASSERT_FALSE(text.ok()) << *text;
  const std::string error(text.status().message());
  if (golden.contains("refusal")) {
    EXPECT_THAT(error, HasSubstr("refuses the conversation"));
    EXPECT_THAT(error, HasSubstr(golden["refusal"].get<std::string>()));
  }
  if (golden.contains("lacked")) {
    EXPECT_THAT(error, HasSubstr("line 1: "));
    EXPECT_THAT(error, HasSubstr(golden["lacked"].get<std::string>()));
  }
}

TEST_F(TemplateLanguageTest, GivesTheTextOrTheRefusalOfJinja2) {
  int num_texts = 0;
  for (const Json& golden : goldens_["cases"]) {
    const std::string source = golden["template"];
    SCOPED_TRACE(source);
    const auto text = Render(source);
    if (!golden.contains("text") || golden.contains("lacked")) {
      ExpectRefusal(golden, text);
      continue;
    }
    EXPECT_EQ(text.value_or(std::string(text.status().message())),
              golden["text"].get<std::string>());
    ++num_texts;
  }
  EXPECT_GE(num_texts, 900);
}

}  // namespace
}  // namespace lathe
