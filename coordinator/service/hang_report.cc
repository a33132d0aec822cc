#include "coordinator/service/hang_report.h"

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "common/spec/field.h"
#include "coordinator/service/convert.h"
#include "nlohmann/json.hpp"

namespace lathe {
namespace {

using Json = nlohmann::ordered_json;

Json RankJson(const HangReport& report, size_t index) {
  const RankProgress& rank = report.ranks[index];
  return {{"rank", rank.rank},
          {"worker", report.workers[index].name},
          {"worker_version", report.workers[index].build},
          {"phase", rank.phase},
          {"counter", rank.counter},
          {"collective", rank.collective},
          {"seconds_without_progress", absl::ToDoubleSeconds(report.time - rank.since)}};
}

}  // namespace

std::string HangReportText(const HangReport& report) {
  Json json = {{"job", report.job.id.value()},
               {"attempt", report.job.attempt},
               {"time", absl::FormatTime(report.time, absl::UTCTimeZone())},
               {"rank_to_blame", report.hang.rank},
               {"what", report.hang.what},
               {"checkpoint_step", report.job.checkpoint.step},
               {"coordinator_version", kLatheVersion},
               {"stacks", absl::StrCat("lathe jobs logs ", report.job.id.value())}};
  for (size_t i = 0; i < report.ranks.size(); ++i) json["ranks"].push_back(RankJson(report, i));
  for (const Field& field : JobFields())
    json["spec"][field.key] = FieldText(field, report.job.spec);
  // Text of workers is not always UTF-8.
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

absl::Status KeepHangReport(const std::filesystem::path& folder, const HangReport& report) {
  LATHE_RETURN_IF_ERROR(MakeFolder(folder, 0700));
  const std::string name =
      absl::StrCat(report.job.id.value(), "-attempt-", report.job.attempt, ".json");
  return WriteFileAtomically(folder / name, HangReportText(report), 0600);
}

}  // namespace lathe
