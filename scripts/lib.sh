# Shared by the scripts beside it; sourced, not run.
set -euo pipefail
LATHE_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export LATHE_CACHE=${LATHE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/lathe}
export CCACHE_DIR=${CCACHE_DIR:-$LATHE_CACHE/ccache}

say() { printf '%s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# Runs a command as root: directly, or with sudo.
as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# Prints the command, then runs it.
run() {
  printf '+ %s\n' "$*" >&2
  "$@"
}
