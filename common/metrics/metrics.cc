#include "common/metrics/metrics.h"

#include <exception>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/mutex.h"
#include "common/base/sha256.h"
#include "prometheus/counter.h"
#include "prometheus/exposer.h"
#include "prometheus/family.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"
#include "prometheus/text_serializer.h"

namespace lathe {
namespace {

// Series of one family, of any kind.
struct Series {
  prometheus::Counter* counter = nullptr;
  prometheus::Gauge* gauge = nullptr;
  prometheus::Histogram* histogram = nullptr;
};

struct FamilyState {
  prometheus::Family<prometheus::Counter>* counter = nullptr;
  prometheus::Family<prometheus::Gauge>* gauge = nullptr;
  prometheus::Family<prometheus::Histogram>* histogram = nullptr;
  std::vector<double> bounds;
  std::map<Labels, Series> series;

  Series& Find(const Labels& labels) {
    const auto [found, added] = series.try_emplace(labels);
    if (!added) return found->second;
    if (counter != nullptr) found->second.counter = &counter->Add(labels);
    if (gauge != nullptr) found->second.gauge = &gauge->Add(labels);
    if (histogram != nullptr) found->second.histogram = &histogram->Add(labels, bounds);
    return found->second;
  }

  void Remove(const Series& gone) const {
    if (gone.counter != nullptr) counter->Remove(gone.counter);
    if (gone.gauge != nullptr) gauge->Remove(gone.gauge);
    if (gone.histogram != nullptr) histogram->Remove(gone.histogram);
  }
};

// Equal without telling by time how far they agree.
bool SameSecret(const std::string& a, const std::string& b) {
  const std::string hash_a = Sha256Hex(a);
  const std::string hash_b = Sha256Hex(b);
  unsigned difference = 0;
  for (size_t i = 0; i < hash_a.size(); ++i) {
    difference |= static_cast<unsigned>(hash_a[i] ^ hash_b[i]);
  }
  return difference == 0;
}

}  // namespace

struct MetricRegistry::State {
  std::shared_ptr<prometheus::Registry> registry = std::make_shared<prometheus::Registry>();
  Mutex mutex;
  std::vector<FamilyState> families ABSL_GUARDED_BY(mutex);

  size_t Add(FamilyState family) {
    const MutexLock lock(mutex);
    families.push_back(std::move(family));
    return families.size() - 1;
  }
};

void Metric::Add(const Labels& labels, double by) const {
  MetricRegistry::State& state = *registry_->state_;
  const MutexLock lock(state.mutex);
  const Series& series = state.families[index_].Find(labels);
  if (series.counter != nullptr) series.counter->Increment(by);
  if (series.gauge != nullptr) series.gauge->Increment(by);
}

void Metric::Set(const Labels& labels, double value) const {
  MetricRegistry::State& state = *registry_->state_;
  const MutexLock lock(state.mutex);
  const Series& series = state.families[index_].Find(labels);
  if (series.gauge != nullptr) series.gauge->Set(value);
}

void Metric::Observe(const Labels& labels, double value) const {
  MetricRegistry::State& state = *registry_->state_;
  const MutexLock lock(state.mutex);
  const Series& series = state.families[index_].Find(labels);
  if (series.histogram != nullptr) series.histogram->Observe(value);
}

MetricRegistry::MetricRegistry() : state_(std::make_unique<State>()) {}
MetricRegistry::~MetricRegistry() = default;

Metric MetricRegistry::Counter(absl::string_view name, absl::string_view help) {
  FamilyState family;
  family.counter = &prometheus::BuildCounter()
                        .Name(std::string(name))
                        .Help(std::string(help))
                        .Register(*state_->registry);
  return Metric(*this, state_->Add(std::move(family)));
}

Metric MetricRegistry::Gauge(absl::string_view name, absl::string_view help) {
  FamilyState family;
  family.gauge = &prometheus::BuildGauge()
                      .Name(std::string(name))
                      .Help(std::string(help))
                      .Register(*state_->registry);
  return Metric(*this, state_->Add(std::move(family)));
}

Metric MetricRegistry::Histogram(absl::string_view name, absl::string_view help,
                                 std::vector<double> bounds) {
  FamilyState family;
  family.bounds = std::move(bounds);
  family.histogram = &prometheus::BuildHistogram()
                          .Name(std::string(name))
                          .Help(std::string(help))
                          .Register(*state_->registry);
  return Metric(*this, state_->Add(std::move(family)));
}

void MetricRegistry::RemoveSeries(absl::string_view name, absl::string_view value) {
  const MutexLock lock(state_->mutex);
  for (FamilyState& family : state_->families) {
    std::erase_if(family.series, [&](const auto& entry) {
      const auto label = entry.first.find(std::string(name));
      const bool gone = label != entry.first.end() && label->second == value;
      if (gone) family.Remove(entry.second);
      return gone;
    });
  }
}

std::string MetricRegistry::Scrape() const {
  return prometheus::TextSerializer().Serialize(state_->registry->Collect());
}

std::vector<double> DurationBounds() {
  return {0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600};
}

struct Exposer::State {
  std::unique_ptr<prometheus::Exposer> exposer;
};

Exposer::Exposer(std::unique_ptr<State> state) : state_(std::move(state)) {}
Exposer::~Exposer() = default;

absl::StatusOr<std::unique_ptr<Exposer>> Exposer::Start(const MetricRegistry& registry,
                                                        const std::string& address,
                                                        const std::string& password) {
  if (!absl::StartsWith(address, "127.")) {
    return absl::InvalidArgumentError(absl::StrCat(
        "metrics address is '", address, "'; only loopback is allowed, such as 127.0.0.1:0"));
  }
  auto state = std::make_unique<State>();
  // Its constructor throws whatever goes wrong: here ends that channel.
  try {
    state->exposer = std::make_unique<prometheus::Exposer>(address, 1);
  } catch (const std::exception& error) {
    return absl::UnavailableError(
        absl::StrCat("cannot serve metrics on ", address, ": ", error.what(),
                     "; is the port in use? --metrics-port 0 takes a free one"));
  }
  state->exposer->RegisterAuth(
      [password](const std::string& user, const std::string& given) {
        return user == "lathe" && SameSecret(given, password);
      },
      "lathe metrics");
  state->exposer->RegisterCollectable(registry.state_->registry);
  return std::unique_ptr<Exposer>(new Exposer(std::move(state)));
}

int Exposer::port() const { return state_->exposer->GetListeningPorts().front(); }

}  // namespace lathe
