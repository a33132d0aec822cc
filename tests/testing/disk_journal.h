#pragma once

#include <string>
#include <vector>

// What a test's program asked of the disk, in order. Linked into a test, fsync and rename of the
// whole program are written down here before they are done.

namespace lathe::testing {

struct DiskCall {
  std::string name;  // "fsync" or "rename".
  std::string path;  // Of a rename: where it goes to.
  std::string from;  // Of a rename.
};

// All calls since the last time. Thread-safe.
std::vector<DiskCall> TakeDiskJournal();

// What a loss of power after the last call could take away although it was renamed into its place:
// a file that was not synced before, or a name whose folder was not synced after. Empty: nothing.
std::string WhatPowerLossTakes(const std::vector<DiskCall>& journal);

}  // namespace lathe::testing
