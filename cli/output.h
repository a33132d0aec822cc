#pragma once

#include <string>
#include <vector>

#include "google/protobuf/message.h"
#include "lathe/v1/jobs.pb.h"

namespace lathe::cli {

// One JSON document on one line, field names as in the proto, to standard output.
void PrintJson(const google::protobuf::Message& message);

// Left-aligned columns under a header.
void PrintTable(const std::vector<std::string>& header,
                const std::vector<std::vector<std::string>>& rows);

std::string StateName(v1::JobState state);  // "running".
bool HasEnded(v1::JobState state);
std::string HumanSeconds(double seconds);  // "41 s", "2:05", "1:02:03".

}  // namespace lathe::cli
