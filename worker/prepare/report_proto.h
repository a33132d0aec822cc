#pragma once

#include "lathe/v1/datasets.pb.h"
#include "worker/data/dataset.h"

namespace lathe {

v1::DatasetReport ToProto(const DatasetReport& report);
v1::DatasetPreview ToProto(const DatasetPreview& preview);

}  // namespace lathe
