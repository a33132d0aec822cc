#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

// The only code that names prometheus. Metric names: prefix lathe_ (or the widely used grpc_server_
// ones), base units at the end, _total for counters; labels with few values, and `job_id` only on
// series that are removed when the job ends. Never a label `job` or `instance`: Prometheus sets
// these on what it scrapes and renames ours.

namespace lathe {

using Labels = std::map<std::string, std::string>;

enum class MetricType { kCounter, kGauge, kHistogram };

class MetricRegistry;

// One metric family. Cheap to copy; the registry must outlive it. Thread-safe.
class Metric {
 public:
  Metric() = default;
  // Counter: by >= 0. Gauge: any.
  void Add(const Labels& labels, double by = 1) const;
  void Set(const Labels& labels, double value) const;      // Gauge only.
  void Observe(const Labels& labels, double value) const;  // Histogram only.

 private:
  friend class MetricRegistry;
  Metric(MetricRegistry& registry, size_t index) : registry_(&registry), index_(index) {}
  MetricRegistry* registry_ = nullptr;
  size_t index_ = 0;
};

// All metrics of one process. Thread-safe.
class MetricRegistry {
 public:
  MetricRegistry();
  ~MetricRegistry();
  MetricRegistry(const MetricRegistry&) = delete;
  MetricRegistry& operator=(const MetricRegistry&) = delete;

  Metric Counter(absl::string_view name, absl::string_view help);
  Metric Gauge(absl::string_view name, absl::string_view help);
  // `bounds`: upper bounds of the buckets, growing.
  Metric Histogram(absl::string_view name, absl::string_view help, std::vector<double> bounds);

  // Removes every series whose label `name` is `value`: when a job ends.
  void RemoveSeries(absl::string_view name, absl::string_view value);

  // The text that a scrape gets.
  std::string Scrape() const;

 private:
  friend class Metric;
  friend class Exposer;
  struct State;
  std::unique_ptr<State> state_;
};

// Bounds for durations in seconds, 1 ms to 1 hour.
std::vector<double> DurationBounds();

// Serves /metrics by HTTP on a loopback address with basic auth: user "lathe".
class Exposer {
 public:
  // `address` is IP:PORT; port 0 takes a free one. InvalidArgument: not a loopback address.
  // Unavailable: the port is in use. The registry must outlive the exposer.
  static absl::StatusOr<std::unique_ptr<Exposer>> Start(const MetricRegistry& registry,
                                                        const std::string& address,
                                                        const std::string& password);
  ~Exposer();
  int port() const;

 private:
  struct State;
  explicit Exposer(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace lathe
