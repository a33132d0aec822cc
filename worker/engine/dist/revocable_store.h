#pragma once

#include <torch/csrc/distributed/c10d/Store.hpp>

namespace lathe {

// Lets go of a store that somebody else still holds a reference to: a process group keeps its store
// for life but needs it only while it connects. Used by one thread at a time.
class RevocableStore final : public c10d::Store {
 public:
  explicit RevocableStore(c10::intrusive_ptr<c10d::Store> store) : store_(std::move(store)) {}

  // Every later call throws.
  void Revoke() { store_.reset(); }

  using c10d::Store::set;
  c10::intrusive_ptr<c10d::Store> clone() override { return live().clone(); }
  void set(const std::string& key, const std::vector<uint8_t>& value) override {
    live().set(key, value);
  }
  std::vector<uint8_t> get(const std::string& key) override { return live().get(key); }
  int64_t add(const std::string& key, int64_t value) override { return live().add(key, value); }
  bool deleteKey(const std::string& key) override { return live().deleteKey(key); }
  bool check(const std::vector<std::string>& keys) override { return live().check(keys); }
  int64_t getNumKeys() override { return live().getNumKeys(); }
  void wait(const std::vector<std::string>& keys) override { live().wait(keys); }
  void wait(const std::vector<std::string>& keys,
            const std::chrono::milliseconds& timeout) override {
    live().wait(keys, timeout);
  }

 private:
  c10d::Store& live() const {
    TORCH_CHECK(store_, "the rendezvous store is closed");
    return *store_;
  }

  c10::intrusive_ptr<c10d::Store> store_;
};

}  // namespace lathe
