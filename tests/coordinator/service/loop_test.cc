#include "coordinator/service/loop.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>

#include "coordinator/service/hub.h"

namespace lathe {
namespace {

TEST(LoopTest, RunsTasksInOrderAndGivesTheirResults) {
  const SystemClock clock;
  Loop loop(
      clock, [] { return absl::InfiniteFuture(); }, [] {});
  int value = 0;
  for (int i = 0; i < 1000; ++i) loop.Post([&value, i] { value = value == i ? i + 1 : -1; });
  EXPECT_EQ(loop.Call([&] { return value; }, -2), 1000);
  loop.Stop();
  EXPECT_EQ(loop.Call([] { return 1; }, -2), -2);
  EXPECT_FALSE(loop.Post([] {}));
}

TEST(LoopTest, StopRunsWhatWasPosted) {
  const SystemClock clock;
  int value = 0;
  Loop loop(
      clock, [] { return absl::InfiniteFuture(); }, [] {});
  for (int i = 0; i < 100; ++i) loop.Post([&] { ++value; });
  loop.Stop();
  EXPECT_EQ(value, 100);
}

TEST(LoopTest, WakesAtTheNextDeadline) {
  const SystemClock clock;
  std::promise<void> fired;
  absl::Time deadline = clock.Now() + absl::Milliseconds(20);
  Loop loop(
      clock, [&] { return deadline; },
      [&] {
        deadline = absl::InfiniteFuture();
        fired.set_value();
      });
  EXPECT_EQ(fired.get_future().wait_for(std::chrono::seconds(10)), std::future_status::ready);
}

struct Listener final : Wakeable {
  void Wake() override {
    if (count.fetch_add(1) == 0) first.set_value();
  }
  std::atomic<int> count = 0;
  std::promise<void> first;
};

TEST(HubTest, WakesThoseWhoSubscribedAndAreAlive) {
  Hub hub;
  const auto listener = std::make_shared<Listener>();
  const auto other = std::make_shared<Listener>();
  hub.Subscribe("a", listener);
  hub.Subscribe("b", other);
  hub.Subscribe("a", std::make_shared<Listener>());
  hub.Notify("a");
  hub.Notify("nobody");
  EXPECT_EQ(listener->first.get_future().wait_for(std::chrono::seconds(10)),
            std::future_status::ready);
  hub.Unsubscribe("a", listener.get());
  EXPECT_EQ(other->count, 0);
}

}  // namespace
}  // namespace lathe
