#!/usr/bin/env bash
# Installs what tests and the bench drive for real: openssl, Squid, nginx, wrk, PostgreSQL, Node with its AWS SDK, Go with its sumdb
# packages, and Spark. Debian, as root.
# What is there already is left as it is, and no service is started: the tests start their own, on ports of their own.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
PATH="$PATH:/usr/sbin"

packages=()
for pair in openssl:openssl squid:squid nginx:nginx-light wrk:wrk node:nodejs npm:npm; do
	command -v "${pair%%:*}" >/dev/null || packages+=("${pair#*:}")
done
command -v go >/dev/null && [[ -d /usr/share/gocode/src/golang.org/x/mod ]] || packages+=(golang-go golang-golang-x-mod-dev)
compgen -G "/usr/lib/postgresql/*/bin/postgres" >/dev/null || packages+=(postgresql)

if ((${#packages[@]})); then
	if [[ $EUID != 0 ]] || ! command -v apt-get >/dev/null; then
		echo "missing: ${packages[*]}; to install them, run this as root on Debian" >&2
		exit 1
	fi
	policy=/usr/sbin/policy-rc.d # Debian's way to say whether a package may start its service
	if [[ ! -e $policy ]]; then
		trap 'rm -f "$policy"' EXIT
		printf '#!/bin/sh\nexit 101\n' >"$policy"
		chmod 755 "$policy"
	fi
	export DEBIAN_FRONTEND=noninteractive
	apt-get -qq -o Acquire::Retries=3 update
	apt-get -qq -o Acquire::Retries=3 install -y --no-install-recommends "${packages[@]}" >/dev/null
fi

# Installed once for each lock. Nothing that a package brings is run.
installed=node/node_modules/.installed
if ! cmp -s node/package-lock.json "$installed"; then
	npm --prefix node ci --ignore-scripts --no-audit --no-fund --loglevel=error
	cp node/package-lock.json "$installed"
fi

# Spark's client and Sail, in an environment of their own, once for each lock.
environment=spark/.venv
if ! cmp -s spark/requirements.txt "$environment/.installed"; then
	"${PYTHON:-python3}" -m venv --clear "$environment"
	echo '*' >"$environment/.gitignore"
	pip=("$environment/bin/pip" install --quiet --disable-pip-version-check --no-deps --no-compile --require-hashes)
	"${pip[@]}" --only-binary :all: --requirement spark/build-requirements.txt
	"${pip[@]}" --no-build-isolation --only-binary :all: --no-binary pyspark-client --requirement spark/requirements.txt
	cp spark/requirements.txt "$environment/.installed"
fi

# Another implementation of witnesses, unpacked once for each list: its wheels refuse the Python that it runs with.
wheels=witness/.wheels
if ! cmp -s witness/requirements.txt "$wheels/.installed"; then
	rm -rf "$wheels" && mkdir "$wheels"
	echo '*' >"$wheels/.gitignore"
	"${PYTHON:-python3}" -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes --only-binary :all: \
		--python-version 3.12 --dest "$wheels" --requirement witness/requirements.txt
	for wheel in "$wheels"/*.whl; do "${PYTHON:-python3}" -m zipfile -e "$wheel" "$wheels"; done
	cp witness/requirements.txt "$wheels/.installed"
fi
