# What the scripts share: installing what is missing, and saying so. Sourced, not run.
# shellcheck shell=bash

say() { printf '%s\n' "$*"; }
die() { printf '%s\n' "$*" >&2; exit 1; }

# need_packages PACKAGE...: installs those Debian packages that are missing.
need_packages() {
  command -v apt-get > /dev/null || { say "no apt-get here: please install $* yourself"; return; }
  local missing=() package
  for package in "$@"; do
    dpkg-query -W -f '${Status}' "$package" 2> /dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  local root=()
  [ "$(id -u)" = 0 ] || root=(sudo)
  say "installing ${missing[*]} with apt-get"
  "${root[@]}" apt-get update -qq
  DEBIAN_FRONTEND=noninteractive "${root[@]}" apt-get install -y -qq "${missing[@]}" > /dev/null
}

# need_cargo: a Rust toolchain, and the C compiler that links for it and builds ring.
need_cargo() {
  command -v cargo > /dev/null || die "cargo is missing: install Rust (rust-lang.org/tools/install)"
  need_packages gcc libc6-dev
}

# need_fuse: a kernel that can, and the helper for those who are not root.
need_fuse() {
  [ -e /dev/fuse ] || die "/dev/fuse is missing: load the kernel module fuse (modprobe fuse)"
  command -v fusermount3 > /dev/null || need_packages fuse3
}
