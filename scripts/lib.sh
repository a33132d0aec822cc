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

# Installs the requirements of a file with hashes into a Python environment of its own: whole or not at all.
install_python_peers() (
  target=$1
  list=$2
  [ -d "$target" ] && exit 0
  mkdir -p "$(dirname "$target")"
  trap 'rm -rf "$target.part"' EXIT
  say "installs transformers, PEFT and torch for the comparison (2.6 GB) into $target"
  python3 -m venv --without-pip "$target.part"
  python3 -m pip --python "$target.part/bin/python" install --quiet --disable-pip-version-check --no-deps --require-hashes \
    --only-binary=:all: -r "$list"
  mv "$target.part" "$target"
)

# Prints the folder of the environment with the packages of peers.txt, installed if it is not there.
python_peers() {
  local list=$LATHE_ROOT/scripts/deps/peers.txt target
  target=$LATHE_CACHE/bench/peers-$(sha256sum "$list" | cut -c1-12)
  install_python_peers "$target" "$list" >&2
  printf '%s\n' "$target"
}
