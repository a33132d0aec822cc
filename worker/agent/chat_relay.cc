#include "worker/agent/chat_relay.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "worker/agent/file_tree.h"

namespace lathe::agent {
namespace {

bool IsLast(const pb::GeneratedText& text) {
  return text.error_code() != 0 || !text.response().finish_reason().empty();
}

pb::GeneratedText ErrorText(const std::string& chat_id, const absl::Status& status) {
  pb::GeneratedText text;
  text.set_request_id(chat_id);
  text.set_error_code(static_cast<int>(status.code()));
  text.set_error(std::string(status.message()));
  return text;
}

}  // namespace

ChatRelay::ChatRelay(CoordinatorChannel& channel, Transfers& transfers, Supervisor& supervisor,
                     std::filesystem::path adapter_folder)
    : channel_(channel),
      transfers_(transfers),
      supervisor_(supervisor),
      adapter_folder_(std::move(adapter_folder)),
      thread_([this](const std::stop_token& stop) { Run(stop); }) {}

void ChatRelay::Start(const pb::ChatStart& chat) {
  const MutexLock lock(mu_);
  if (chats_.contains(chat.chat_id())) return;  // Sent again.
  if (waiting_.size() >= 4 * kMaxChats) return LogWarning("a chat is dropped: too many wait");
  chats_[chat.chat_id()] = std::make_shared<Chat>();
  waiting_.push_back(chat);
  changed_.notify_all();
}

void ChatRelay::Cancel(const std::string& chat_id) {
  {
    const MutexLock lock(mu_);
    const auto found = chats_.find(chat_id);
    if (found == chats_.end()) return;
    found->second->cancelled = true;
  }
  TellChild(chat_id);
}

void ChatRelay::TellChild(const std::string& chat_id) {
  pb::ParentMessage message;
  message.mutable_cancel_generate()->set_request_id(chat_id);
  supervisor_.Post(std::move(message));
}

void ChatRelay::Run(const std::stop_token& stop) {
  while (true) {
    pb::ChatStart chat;
    bool crowded = false;
    {
      MutexLock lock(mu_);
      const bool any = changed_.wait(
          lock, stop, [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return !waiting_.empty(); });
      if (!any) return;
      chat = std::move(waiting_.front());
      waiting_.pop_front();
      crowded = chats_.size() > kMaxChats;
    }
    const absl::Status status = crowded
                                    ? absl::ResourceExhaustedError(absl::StrCat(
                                          "more than ", kMaxChats, " chats wait for this model"))
                                    : Hand(chat, stop);
    if (!status.ok()) Reject(chat.chat_id(), status);
  }
}

absl::Status ChatRelay::Hand(const pb::ChatStart& chat, const std::stop_token& stop) {
  pb::ParentMessage message;
  pb::Generate& generate = *message.mutable_generate();
  generate.set_request_id(chat.chat_id());
  *generate.mutable_request() = chat.request();
  if (chat.adapter().files_size() > 0) {
    LATHE_ASSIGN_OR_RETURN(const std::filesystem::path folder, FetchAdapter(chat.adapter(), stop));
    generate.set_adapter_dir(folder.string());
  }
  {
    const MutexLock lock(mu_);
    const auto found = chats_.find(chat.chat_id());
    if (found == chats_.end()) return absl::OkStatus();
    if (found->second->cancelled) return absl::CancelledError("cancelled");
  }
  if (supervisor_.Post(std::move(message))) return absl::OkStatus();
  return absl::ResourceExhaustedError("the model's process does not take more chats");
}

absl::StatusOr<std::filesystem::path> ChatRelay::FetchAdapter(const v1::FileTree& adapter,
                                                              const std::stop_token& stop) {
  std::filesystem::path folder = adapter_folder_ / TreeDigest(adapter);
  if (fetched_.contains(folder)) return folder;
  LATHE_RETURN_IF_ERROR(
      Annotate(transfers_.FetchTree(adapter, folder, Rehash::kNo, stop), "adapter"));
  fetched_.insert(folder);
  return folder;
}

void ChatRelay::Reject(const std::string& chat_id, const absl::Status& status) {
  OnText(ErrorText(chat_id, status));
}

void ChatRelay::OnText(const pb::GeneratedText& text) {
  const bool written = Publish(text);
  if (!written) TellChild(text.request_id());
  if (!written || IsLast(text)) Close(text.request_id());
}

std::shared_ptr<ChatRelay::Chat> ChatRelay::Find(const std::string& chat_id) {
  const MutexLock lock(mu_);
  const auto found = chats_.find(chat_id);
  return found == chats_.end() ? nullptr : found->second;
}

bool ChatRelay::Publish(const pb::GeneratedText& text) {
  const std::shared_ptr<Chat> chat = Find(text.request_id());
  if (chat == nullptr) return false;
  const MutexLock writing(chat->writing);
  if (chat->finished) return false;
  {
    const MutexLock lock(mu_);
    if (aborted_) return false;
    if (chat->stream == nullptr) chat->stream = channel_.OpenText();
  }
  pb::PublishTextRequest request;
  request.set_chat_id(text.request_id());
  *request.mutable_text() = text;
  return chat->stream->Write(request);
}

void ChatRelay::Close(const std::string& chat_id) {
  const std::shared_ptr<Chat> chat = Find(chat_id);
  if (chat == nullptr) return;
  const MutexLock writing(chat->writing);
  if (chat->stream != nullptr && !chat->finished) chat->stream->Finish().IgnoreError();
  chat->finished = true;
  const MutexLock lock(mu_);
  chats_.erase(chat_id);
}

void ChatRelay::Abort() {
  const MutexLock lock(mu_);
  aborted_ = true;
  for (const auto& [id, chat] : chats_) {
    if (chat->stream != nullptr) chat->stream->Close();
  }
}

void ChatRelay::Finish(const std::string& reason) {
  thread_.request_stop();
  thread_.join();
  std::vector<std::string> open;
  {
    const MutexLock lock(mu_);
    for (const auto& [id, chat] : chats_) open.push_back(id);
  }
  for (const std::string& id : open) Reject(id, absl::UnavailableError(reason));
}

}  // namespace lathe::agent
