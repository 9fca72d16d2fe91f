#!/usr/bin/env bash
# Sees that what the tests need is there: installs it as root on Debian, otherwise says what to install.
set -euo pipefail
cd "$(dirname "$0")"
declare -A package=([curl]=curl [node]=nodejs [npm]=npm [gcc]=gcc [ip]=iproute2 [nft]=nftables [nginx]=nginx-light [haproxy]=haproxy [caddy]=caddy [openssl]=openssl [chromium]=chromium)
missing=()
for program in "${!package[@]}"; do
	command -v "$program" >/dev/null || [ -x "/usr/sbin/$program" ] || missing+=("${package[$program]}")
done
if [ ${#missing[@]} -gt 0 ]; then
	if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
		apt-get update -qq
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
	else
		echo "the tests need these Debian packages (or their like): ${missing[*]}" >&2
		exit 1
	fi
fi
node --version | grep -qE '^v([2-9][0-9])\.' || { echo "the tests need Node.js 20 or newer, this is $(node --version)" >&2; exit 1; }
(cd js && npm ci --no-audit --no-fund --loglevel=error)
