#include "common/rpc/loopback.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace lathe {
namespace {

constexpr absl::string_view kForm = "must be HOST:PORT, for example 127.0.0.1:7070";

absl::Status BadAddress(absl::string_view address, absl::string_view reason) {
  return absl::InvalidArgumentError(absl::StrCat("address is '", address, "'; ", reason));
}

}  // namespace

absl::StatusOr<HostPort> ParseHostPort(absl::string_view address) {
  const size_t colon = address.rfind(':');
  if (colon == absl::string_view::npos || colon == 0) return BadAddress(address, kForm);
  absl::string_view host = address.substr(0, colon);
  const absl::string_view digits = address.substr(colon + 1);
  if (host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  } else if (host.find(':') != absl::string_view::npos) {
    return BadAddress(address, "an IPv6 address needs brackets: [::1]:7070");
  }
  int port = -1;
  const bool plain = !digits.empty() && digits.find_first_not_of("0123456789") == digits.npos;
  if (!plain || !absl::SimpleAtoi(digits, &port) || port > 65535) return BadAddress(address, kForm);
  return HostPort{std::string(host), port};
}

bool IsLoopbackHost(absl::string_view host) {
  if (absl::AsciiStrToLower(host) == "localhost") return true;
  const std::string text(host);
  in_addr v4{};
  if (inet_pton(AF_INET, text.c_str(), &v4) == 1) return (ntohl(v4.s_addr) >> 24) == 127;
  in6_addr v6{};
  return inet_pton(AF_INET6, text.c_str(), &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

absl::Status ValidateLoopback(absl::string_view address) {
  LATHE_ASSIGN_OR_RETURN(const HostPort parsed, ParseHostPort(address));
  if (IsLoopbackHost(parsed.host)) return absl::OkStatus();
  return BadAddress(address,
                    "only loopback is allowed until there is TLS: 127.0.0.0/8, [::1] or "
                    "localhost");
}

}  // namespace lathe
