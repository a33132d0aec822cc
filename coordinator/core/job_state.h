#pragma once

#include "absl/strings/string_view.h"

// The states of a job and the one function that says which may follow which.

namespace lathe {

enum class JobState {
  kQueued = 1,  // The numbers are those of lathe.v1.JobState and of the database.
  kRunning,
  kPausing,
  kPaused,
  kCancelling,
  kCancelled,
  kSucceeded,
  kFailed,
};

constexpr bool IsFinal(JobState state) {
  return state == JobState::kCancelled || state == JobState::kSucceeded ||
         state == JobState::kFailed;
}

constexpr bool CanMove(JobState from, JobState to) {
  switch (from) {
    case JobState::kQueued:
      // kFailed: its attempts are used up. kPaused and kCancelled: nothing runs that must end
      // first.
      return to == JobState::kRunning || to == JobState::kPaused || to == JobState::kCancelled ||
             to == JobState::kFailed;
    case JobState::kRunning:
      // kQueued: the attempt ended and the next one waits for slots.
      return to == JobState::kQueued || to == JobState::kPausing || to == JobState::kCancelling ||
             to == JobState::kSucceeded || to == JobState::kFailed;
    case JobState::kPausing:
      return to == JobState::kPaused || to == JobState::kCancelling || to == JobState::kSucceeded ||
             to == JobState::kFailed;
    case JobState::kPaused:
      return to == JobState::kQueued || to == JobState::kCancelled;
    case JobState::kCancelling:
      return to == JobState::kCancelled;
    case JobState::kCancelled:
    case JobState::kSucceeded:
    case JobState::kFailed:
      return false;
  }
  return false;
}

// "QUEUED".
absl::string_view JobStateName(JobState state);

}  // namespace lathe
