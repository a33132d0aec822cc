#!/usr/bin/env bash
# Builds the static library and puts it with its two headers into a folder. CMake calls it.
#
# The result is kept in the user's cache under a hash of everything it is made from, so that a second
# clone compiles nothing; crates compile once per machine in a target folder that all clones share.
# The lock is held over build and copy: two clones must not mix their results. Each target folder has its own, or a
# build for the fuzzer would keep all others waiting.
#
# usage: textkit/build.sh CACHE_DIR OUT_DIR [--coverage]
#   --coverage  libFuzzer sees which code runs, and arithmetic that overflows is a panic
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
case $# in
  2) ;;
  3) [ "$3" = --coverage ] || { echo "error: textkit/build.sh got '$3'; allowed is --coverage" >&2; exit 2; } ;;
  *) echo "error: textkit/build.sh got $# arguments; needs CACHE_DIR OUT_DIR [--coverage]" >&2; exit 2 ;;
esac
cache=$1/textkit
out=$2
export CARGO_HOME=${CARGO_HOME:-$1/cargo}

# Debian's pair first: a compiler of the user's own may be too old for the locked crates.
if [ -x /usr/bin/cargo ] && [ -x /usr/bin/rustc ]; then
  cargo=/usr/bin/cargo
  export RUSTC=/usr/bin/rustc
else
  cargo=$(command -v cargo) || { echo "error: cargo: not found; run scripts/setup" >&2; exit 1; }
fi

mkdir -p "$cache" "$out"
out=$(cd "$out" && pwd)
cache=$(cd "$cache" && pwd)
cd "$here"
flags=()
target=$cache/target
release=$target/release
if [ $# = 3 ]; then
  # A target of its own keeps the flags from build scripts, which nothing links with libFuzzer.
  target=$cache/target-coverage
  triple=x86_64-unknown-linux-gnu
  release=$target/$triple/release
  flags=(--target "$triple")
  export RUSTFLAGS="-C passes=sancov-module -C llvm-args=-sanitizer-coverage-level=4
    -C llvm-args=-sanitizer-coverage-inline-8bit-counters -C llvm-args=-sanitizer-coverage-pc-table
    -C llvm-args=-sanitizer-coverage-trace-compares -C codegen-units=1 -C overflow-checks=on"
fi
# Everything that the library is made from. Paths are relative: a clone elsewhere has the same key.
key=$(set -e
  sha256sum -- Cargo.toml Cargo.lock build.rs build.sh src/*.rs
  "${RUSTC:-rustc}" -vV
  "${CXX:-c++}" --version
  printf '%s' "${RUSTFLAGS:-}")
key=$(printf '%s' "$key" | sha256sum | cut -c1-32)
store=$cache/$key

build_into_store() {
  local offline=() temp
  "$cargo" fetch --locked --offline --quiet 2>/dev/null && offline=(--offline)
  CARGO_TARGET_DIR=$target "$cargo" build --release --locked "${offline[@]}" "${flags[@]}" --quiet
  temp=$(mktemp -d "$cache/.new.XXXXXX")
  mkdir -p "$temp/include/textkit" "$temp/include/rust"
  objcopy --strip-debug "$release/libtextkit.a" "$temp/libtextkit.a"
  cp -L "$target/cxxbridge/textkit/src/lib.rs.h" "$temp/include/textkit/bridge.h"
  cp -L "$target/cxxbridge/rust/cxx.h" "$temp/include/rust/cxx.h"
  mv -T "$temp" "$store"
  # 46 MB each: the five newest are enough for branches and clones side by side.
  ls -1dt "$cache"/[0-9a-f]*[0-9a-f] | tail -n +6 | xargs -r rm -rf --
}

exec 9>"$target.lock"
flock 9
[ -d "$store" ] || build_into_store
touch "$store"  # In use: the other lock's holder must not take it for old.
cp -R "$store/." "$out/"
# Newer than every source, or the build would run this again each time.
touch "$out/libtextkit.a" "$out/include/textkit/bridge.h"
