#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

struct sqlite3;
struct sqlite3_stmt;

// SQLite with our error channel. Thread-compatible: the store's mutex guards it.

namespace lathe::sqlite {

class Database;

// A prepared statement. Bind in order, then Step() until false.
class Statement {
 public:
  Statement& Bind(int64_t value);
  Statement& Bind(absl::string_view text);
  // False at the end. Errors: as ToStatus() below.
  absl::StatusOr<bool> Step();
  // Steps once and expects no row.
  absl::Status Run();

  int64_t Int(int column) const;
  std::string Text(int column) const;

 private:
  friend class Database;
  struct Finalizer {
    void operator()(sqlite3_stmt* statement) const;
  };
  explicit Statement(sqlite3_stmt* statement) : statement_(statement) {}
  std::unique_ptr<sqlite3_stmt, Finalizer> statement_;
  int next_ = 1;
};

class Database {
 public:
  // Creates the file (mode 0600) if it is missing. WAL; `full`: synchronous FULL, else NORMAL.
  static absl::StatusOr<Database> Open(const std::filesystem::path& path, bool full);

  absl::Status Execute(const std::string& sql);
  // REQUIRES: sql is ours and correct.
  Statement Prepare(absl::string_view sql);
  int64_t NumChanged() const;  // Rows of the last INSERT, UPDATE or DELETE.

 private:
  struct Closer {
    void operator()(sqlite3* database) const;
  };
  explicit Database(sqlite3* database) : database_(database) {}
  std::unique_ptr<sqlite3, Closer> database_;
};

// Rolls back on destruction unless committed.
class Transaction {
 public:
  static absl::StatusOr<Transaction> Begin(Database& database);
  Transaction(Transaction&& other) noexcept;
  Transaction& operator=(Transaction&&) = delete;
  ~Transaction();
  absl::Status Commit();

 private:
  explicit Transaction(Database& database) : database_(&database) {}
  Database* database_;  // Null after a move or Commit().
};

}  // namespace lathe::sqlite
