#include "tests/testing/http_get.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/base/file.h"

namespace lathe::testing {

std::string GetMetrics(int port, const std::string& credentials) {
  const UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) return "";
  const std::string auth =
      credentials.empty()
          ? ""
          : absl::StrCat("Authorization: Basic ", absl::Base64Escape(credentials), "\r\n");
  const std::string request =
      absl::StrCat("GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n", auth, "\r\n");
  if (write(fd.get(), request.data(), request.size()) < 0) return "";
  std::string answer;
  char buffer[4096];
  for (ssize_t got; (got = read(fd.get(), buffer, sizeof(buffer))) > 0;)
    answer.append(buffer, static_cast<size_t>(got));
  return answer;
}

}  // namespace lathe::testing
