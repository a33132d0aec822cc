#pragma once

#include <memory>
#include <string>
#include <utility>

#include "common/base/mutex.h"
#include "coordinator/service/hub.h"
#include "grpcpp/support/server_callback.h"

namespace lathe {

enum class Pulled { kMessage, kNothingYet, kEnd };

// Where a server stream takes its messages from. Called by one thread at a time.
template <class T>
class PullSource {
 public:
  virtual ~PullSource() = default;
  // kMessage: `message` is filled in. kNothingYet: wait for a Wake(). kEnd: `status` is set.
  virtual Pulled Pull(T& message, grpc::Status& status) = 0;
  // The stream is over, whoever ended it.
  virtual void OnDone() {}
};

// A server stream that pulls its next message when the last one has left: a slow client holds up
// nobody and nothing piles up for it. Keeps itself alive until gRPC is done with it.
template <class T>
class PullStream final : public grpc::ServerWriteReactor<T>,
                         public Wakeable,
                         public std::enable_shared_from_this<PullStream<T>> {
 public:
  // Woken by what is told to `hub` under `key`.
  static grpc::ServerWriteReactor<T>* Start(std::unique_ptr<PullSource<T>> source, Hub& hub,
                                            const std::string& key) {
    std::shared_ptr<PullStream> stream(new PullStream(std::move(source), hub, key));
    stream->self_ = stream;
    hub.Subscribe(key, std::weak_ptr<Wakeable>(stream));
    stream->Wake();
    return stream.get();
  }

  void Wake() override {
    {
      const MutexLock lock(mutex_);
      woken_ = true;
      if (busy_) return;
      busy_ = true;
    }
    Advance();
  }

 private:
  PullStream(std::unique_ptr<PullSource<T>> source, Hub& hub, std::string key)
      : source_(std::move(source)), hub_(hub), key_(std::move(key)) {}

  void OnWriteDone(bool ok) override {
    if (ok) return Advance();
    End(grpc::Status::CANCELLED);
  }

  void OnCancel() override {
    {
      const MutexLock lock(mutex_);
      cancelled_ = true;
    }
    Wake();
  }

  void OnDone() override {
    hub_.Unsubscribe(key_, this);
    source_->OnDone();
    const std::shared_ptr<PullStream> last = std::move(self_);
  }

  // REQUIRES: this thread made it busy, or the write that it was busy with is done.
  void Advance() {
    while (true) {
      if (TakeWake()) return End(grpc::Status::CANCELLED);
      grpc::Status status;
      switch (source_->Pull(message_, status)) {
        case Pulled::kMessage:
          this->StartWrite(&message_);
          return;
        case Pulled::kEnd:
          return End(status);
        case Pulled::kNothingYet:
          if (GoIdle()) return;
      }
    }
  }

  // Whether the stream was cancelled. Forgets the wake-ups so far: the pull that follows sees what
  // they were about.
  bool TakeWake() {
    const MutexLock lock(mutex_);
    woken_ = false;
    return cancelled_;
  }

  // False: there was a wake-up since TakeWake().
  bool GoIdle() {
    const MutexLock lock(mutex_);
    if (woken_) return false;
    busy_ = false;
    return true;
  }

  // Stays busy for ever: nothing may follow.
  void End(const grpc::Status& status) {
    if (!std::exchange(ended_, true)) this->Finish(status);
  }

  const std::unique_ptr<PullSource<T>> source_;
  Hub& hub_;
  const std::string key_;
  T message_;           // Of who is busy.
  bool ended_ = false;  // Of who is busy.
  std::shared_ptr<PullStream> self_;
  Mutex mutex_;
  bool busy_ ABSL_GUARDED_BY(mutex_) = false;
  bool woken_ ABSL_GUARDED_BY(mutex_) = false;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
};

// Ends at once with a status.
template <class T>
class RefusedStream final : public grpc::ServerWriteReactor<T> {
 public:
  explicit RefusedStream(const grpc::Status& status) { this->Finish(status); }
  void OnDone() override { delete this; }
};

}  // namespace lathe
