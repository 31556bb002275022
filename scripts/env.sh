# Sourced by the other scripts: where things are built and cached. Everything can be overridden from outside.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
SERIATIM_CACHE=${SERIATIM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/seriatim}
mkdir -p "$SERIATIM_CACHE"
cd "$ROOT"

# Outside the clone, so that a fresh clone on the same machine starts warm.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$SERIATIM_CACHE/target}
BIN=$CARGO_TARGET_DIR/release

say() { printf '%s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# bindgen reads RocksDB's headers with libclang. libclang-cpp is another library, and may be there without this one.
has_libclang() { compgen -G "$1/libclang.so*" >/dev/null || compgen -G "$1/libclang-[0-9]*.so*" >/dev/null; }
find_libclang() {
  [ -z "${LIBCLANG_PATH:-}" ] || return 0
  local folder
  for folder in /usr/lib/llvm-*/lib; do
    if has_libclang "$folder"; then export LIBCLANG_PATH=$folder; fi
  done
}
find_libclang

# Links RocksDB from the cached archive; builds that first if this machine has none.
use_rocksdb() {
  find_libclang # setup may have installed it since
  ROCKSDB_LIB_DIR=${ROCKSDB_LIB_DIR:-$("$ROOT/scripts/rocksdb")}
  export ROCKSDB_LIB_DIR ROCKSDB_STATIC=1
}

# Where a system is that benchmarks measure beside ours: this machine's own, or what scripts/setup unpacked.
PEERS=$SERIATIM_CACHE/peers
peer_program() { PATH=$PATH:$PEERS/usr/bin:$PEERS/usr/sbin command -v "$1"; }

# Node for the TypeScript SDK, 20 or newer; some Debians have an older one, and then scripts/setup puts one into the cache.
NODE_TOOLS=$SERIATIM_CACHE/tools/node
has_node() { [ "$(node -p 'Number(process.versions.node.split(".")[0]) >= 20' 2>/dev/null)" = true ]; }
use_node() {
  has_node || PATH=$(echo "$NODE_TOOLS"/node_modules/node-linux-*/bin):$PATH
  has_node || die "no Node 20 or newer here: scripts/setup typescript"
}
