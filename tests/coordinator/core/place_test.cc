#include "coordinator/core/place.h"

#include <gtest/gtest.h>

namespace lathe {
namespace {

const absl::Time kNow = absl::FromUnixSeconds(1000);

WorkerView MakeWorker(const std::string& name, int slots, int free,
                      const std::string& kind = "cpu") {
  return {.id = WorkerId("wrk-" + name),
          .name = name,
          .slot_kind = kind,
          .slots = slots,
          .free_slots = free,
          .connected = true,
          .last_seen = kNow};
}

Gang Train(int ranks, int slots = 1) {
  return {{{.role = "train", .ranks = ranks, .slots_per_rank = slots}}};
}

Gang OnGpu(int ranks) { return {{{.role = "train", .ranks = ranks, .on_gpu = true}}}; }

Gang Prepare() { return {{{.role = "prepare", .cpu_work = true}}}; }

std::vector<std::string> Names(const Decision& decision) {
  std::vector<std::string> names;
  if (decision.placement.has_value())
    for (const WorkerId& id : decision.placement->workers) names.push_back(id.value());
  return names;
}

using Expected = std::vector<std::string>;

TEST(PlaceTest, SpreadsRanksOverTheWorkersWithMostFreeSlots) {
  const std::vector<WorkerView> workers = {MakeWorker("a", 4, 1), MakeWorker("b", 4, 3)};
  EXPECT_EQ(Names(Place(Train(3), workers, kNow, {})), (Expected{"wrk-b", "wrk-b", "wrk-a"}));
}

TEST(PlaceTest, TheOrderOfTheWorkersDoesNotMatter) {
  std::vector<WorkerView> workers = {MakeWorker("a", 2, 2), MakeWorker("b", 2, 2)};
  const Expected expected = {"wrk-a", "wrk-b"};
  EXPECT_EQ(Names(Place(Train(2), workers, kNow, {})), expected);
  std::swap(workers[0], workers[1]);
  EXPECT_EQ(Names(Place(Train(2), workers, kNow, {})), expected);
}

TEST(PlaceTest, WaitsWhenSlotsAreTakenAndSaysWhy) {
  const std::vector<WorkerView> workers = {MakeWorker("a", 2, 1), MakeWorker("b", 2, 1)};
  const Decision decision = Place(Train(4), workers, kNow, {});
  EXPECT_FALSE(decision.placement.has_value());
  EXPECT_EQ(decision.reason, "waits: 2 cpu slots free on 2 workers, needs 4");
  EXPECT_TRUE(decision.fits_when_idle);
}

TEST(PlaceTest, SaysWhenTheWorkersCouldNeverHoldTheGang) {
  const std::vector<WorkerView> workers = {MakeWorker("a", 1, 1)};
  const Decision decision = Place(Train(4), workers, kNow, {});
  EXPECT_FALSE(decision.fits_when_idle);
  EXPECT_EQ(decision.reason,
            "waits: 1 cpu slot free on 1 worker, needs 4; they have 1 in all: start more workers");
}

TEST(PlaceTest, SaysWhenNobodyIsThere) {
  EXPECT_EQ(Place(Train(2), {}, kNow, {}).reason,
            "waits: no worker is connected, needs 2 cpu slots");
}

TEST(PlaceTest, SilentAndDisconnectedWorkersGetNothing) {
  std::vector<WorkerView> workers = {MakeWorker("a", 4, 4), MakeWorker("b", 4, 4)};
  workers[0].last_seen = kNow - absl::Seconds(16);
  workers[1].connected = false;
  EXPECT_FALSE(Place(Train(1), workers, kNow, {}).placement.has_value());
  workers[0].last_seen = kNow - absl::Seconds(15);
  EXPECT_EQ(Names(Place(Train(1), workers, kNow, {})), Expected{"wrk-a"});
}

TEST(PlaceTest, WorkOnGpusTakesNoOtherSlots) {
  const std::vector<WorkerView> workers = {MakeWorker("a", 8, 8), MakeWorker("g", 2, 1, "cuda")};
  EXPECT_EQ(Names(Place(OnGpu(1), workers, kNow, {})), Expected{"wrk-g"});
  EXPECT_EQ(Place(OnGpu(2), workers, kNow, {}).reason,
            "waits: 1 cuda slot free on 1 worker, needs 2");
  const Decision none = Place(OnGpu(1), {workers.data(), 1}, kNow, {});
  EXPECT_EQ(none.reason,
            "waits: no worker offers GPUs, needs 1 cuda slot: start lathe-worker with --gpus all");
  EXPECT_FALSE(none.fits_when_idle) << "it holds up nobody";
}

TEST(PlaceTest, WorkOnCoresParksAGpuOnlyWhereNobodyOffersCores) {
  const std::vector<WorkerView> both = {MakeWorker("a", 1, 1), MakeWorker("g", 2, 2, "cuda")};
  EXPECT_EQ(Names(Place(Train(1), both, kNow, {})), Expected{"wrk-a"});
  EXPECT_EQ(Place(Train(2), both, kNow, {}).reason,
            "waits: 1 cpu slot free on 1 worker, needs 2; they have 1 in all: start more workers");
  EXPECT_EQ(Names(Place(Train(1), {both.data() + 1, 1}, kNow, {})), Expected{"wrk-g"});
}

TEST(PlaceTest, AProjectThatHasItsSlotsWaitsForItsOwnJobs) {
  const std::vector<WorkerView> workers = {MakeWorker("a", 8, 8)};
  PlaceOptions options;
  options.quota = {.project = "p", .limit = 3, .held = 2};
  EXPECT_TRUE(Place(Train(1), workers, kNow, options).placement.has_value());
  const Decision two = Place(Train(2), workers, kNow, options);
  EXPECT_EQ(two.reason, "waits: project 'p' holds 2 of its 3 slots, needs 2");
  EXPECT_FALSE(two.fits_when_idle) << "it holds up nobody";
  EXPECT_EQ(Place(Train(4), workers, kNow, options).reason,
            "waits: project 'p' holds 2 of its 3 slots, needs 4: it may never have so many");
  Gang elastic = Train(4);
  EXPECT_TRUE(PlaceElastic(elastic, 1, workers, kNow, options).placement.has_value());
  EXPECT_EQ(elastic.groups[0].ranks, 1);
}

TEST(PlaceTest, TokenisingNeverParksAGpu) {
  const std::vector<WorkerView> both = {MakeWorker("a", 1, 1), MakeWorker("g", 2, 2, "cuda")};
  EXPECT_EQ(Names(Place(Prepare(), both, kNow, {})), Expected{"wrk-a"});
  const std::vector<WorkerView> busy_gpu = {MakeWorker("g", 2, 0, "cuda")};
  EXPECT_EQ(Names(Place(Prepare(), busy_gpu, kNow, {})), Expected{"wrk-g"});
}

TEST(PlaceTest, ARankNeedsAllItsSlotsOnOneWorker) {
  const std::vector<WorkerView> workers = {MakeWorker("a", 2, 1), MakeWorker("b", 2, 1)};
  EXPECT_FALSE(Place(Train(1, 2), workers, kNow, {}).placement.has_value());
}

TEST(PlaceTest, AWorkerToAvoidIsTakenOnlyWhereTheOthersCouldNotHoldTheGang) {
  const std::vector<WorkerView> workers = {MakeWorker("a", 1, 1), MakeWorker("b", 1, 1),
                                           MakeWorker("c", 1, 0)};
  PlaceOptions options;
  options.avoid = {workers[0].id};
  const Decision one = Place(Train(1), workers, kNow, options);
  ASSERT_TRUE(one.placement.has_value());
  EXPECT_EQ(one.placement->workers[0], workers[1].id);
  const Decision two = Place(Train(2), workers, kNow, options);
  EXPECT_FALSE(two.placement.has_value()) << "it waits for c";
  EXPECT_EQ(
      two.reason,
      "waits: 1 cpu slot free on 2 workers, needs 2; not on 1 worker that failed it repeatedly");
  const Decision three = Place(Train(3), workers, kNow, options);
  EXPECT_TRUE(three.fits_when_idle);
  EXPECT_EQ(three.reason, "waits: 2 cpu slots free on 3 workers, needs 3");
}

}  // namespace
}  // namespace lathe
