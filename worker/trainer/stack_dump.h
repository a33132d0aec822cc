#pragma once

namespace lathe {

// From now on SIGUSR1 makes the process print the stack of its main thread to standard error, a
// line per frame, and go on: how the agent finds out where a training stands still. `program`:
// argv[0]. Called once, before other threads start.
void PrintStackOnSignal(const char* program);

}  // namespace lathe
