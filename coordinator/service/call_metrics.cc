#include "coordinator/service/call_metrics.h"

#include <string>
#include <utility>

namespace lathe {
namespace {

using grpc::experimental::InterceptionHookPoints;

class CallMetrics final : public grpc::experimental::Interceptor {
 public:
  CallMetrics(Probe& probe, const Clock& clock, std::string method)
      : probe_(probe), clock_(clock), method_(std::move(method)), start_(clock.Now()) {
    probe_.OnCallStarted(method_);
  }

  ~CallMetrics() override { probe_.OnCallHandled(method_, code_, clock_.Now() - start_); }

  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_STATUS)) {
      code_ = methods->GetSendStatus().error_code();
    }
    methods->Proceed();
  }

 private:
  Probe& probe_;
  const Clock& clock_;
  const std::string method_;
  const absl::Time start_;
  int code_ = grpc::StatusCode::CANCELLED;  // If no status is ever sent.
};

class Factory final : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  Factory(Probe& probe, const Clock& clock) : probe_(probe), clock_(clock) {}

  grpc::experimental::Interceptor* CreateServerInterceptor(
      grpc::experimental::ServerRpcInfo* info) override {
    return new CallMetrics(probe_, clock_, info->method());
  }

 private:
  Probe& probe_;
  const Clock& clock_;
};

}  // namespace

std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeCallMetrics(
    Probe& probe, const Clock& clock) {
  return std::make_unique<Factory>(probe, clock);
}

}  // namespace lathe
