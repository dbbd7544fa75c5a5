#!/usr/bin/env bash
# What `make demo` shows: a cluster of three machines on this one, a Deployment on
# it, and what becomes of its Pods when a machine loses power. It leaves nothing
# behind, and exits 0 only if every Pod came back.
set -euo pipefail
export LC_ALL=C
cd "$(dirname "$0")/../.."

replicas=6
limit=30 # seconds that Pods may take to come back
port=${PORT:-7391}
config=$(mktemp -d)
export SKEIN_CONFIG=$config/config.json # yours stays as it is

skein() { bin/skein "$@"; }
skeind() { bin/skeind "$@"; }
act() { step=$1; printf '\n== %s\n' "$1"; }
show() { printf '\n$ %s\n' "$*"; "$@"; }
fail() { printf '\nthe demo failed: %s\n' "$1" >&2; exit 1; }

finish() {
	code=$?
	trap - EXIT INT TERM
	if ((code != 0)); then
		printf '\n"%s" did not work. The last words of each agent:\n' "$step" >&2
		for log in /run/skein/lab/demo/*/agent.log; do
			[[ -f $log ]] && printf -- '--- %s\n' "$log" >&2 && tail -n 8 "$log" >&2
		done
	fi
	skeind lab down --name demo || code=1
	rm -rf "$config"
	exit "$((code != 0))"
}
step=start
trap finish EXIT
trap 'exit 130' INT TERM

# pods prints "name node" of every Pod that runs and is ready.
pods() {
	skein get pods --no-headers -o wide 2>/dev/null |
		awk '{ split($2, r, "/") } r[1] == r[2] && $3 == "Running" { print $1, $(NF-1) }' || true
}

# ready_nodes counts the machines that are.
ready_nodes() { skein get nodes --no-headers 2>/dev/null | awk '$2 == "Ready"' | wc -l || true; }

# elapsed prints the seconds since the time $1, in microseconds.
elapsed() {
	local us=$((${EPOCHREALTIME/./} - $1))
	printf '%d.%02d s' $((us / 1000000)) $((us % 1000000 / 10000))
}

# cut_power kills the machine $1 and watches until all Pods run on others.
cut_power() {
	local node=$1 name where start killing count=0
	declare -A known=()
	while read -r name where; do known[$name]=1; done < <(pods)
	start=${EPOCHREALTIME/./}
	skeind lab kill "$node" --name demo &
	killing=$!
	until ((count == replicas)); do
		((${EPOCHREALTIME/./} - start < limit * 1000000)) || fail "after $limit s only $count of $replicas Pods run"
		count=0
		while read -r name where; do
			[[ $where != "$node" ]] || continue
			count=$((count + 1))
			[[ -n ${known[$name]:-} ]] || printf '   %-26s runs on %s, %s after the power went\n' "$name" "$where" "$(elapsed "$start")"
			known[$name]=1
		done < <(pods)
	done
	wait "$killing" || fail "machine $node could not be killed"
	printf '   all %d Pods run again after %s\n' "$replicas" "$(elapsed "$start")"
}

act "Three machines, made of network namespaces, with a real agent on each"
show skeind lab up --name demo --port "$port"

act "A Deployment of $replicas containers"
show skein run web --image skein/demo:v1 --replicas "$replicas" --port 8080
show skein status
show skein get pods -o wide

act "Act one: the machine that carries the most loses its power"
leader=$(skein get nodes --no-headers | awk '$4 == "yes" { print $1 }') # column LEADER; its turn comes in act two
victim=$(pods | awk '{ print $2 }' | sort | uniq -c | awk -v leader="$leader" '{ print 2 * $1 - ($2 == leader), $2 }' |
	sort -k1,1nr -k2 | awk 'NR == 1 { print $2 }')
[[ -n $victim ]] || fail "no Pod runs anywhere"
echo "   that is $victim"
cut_power "$victim"
show skein get nodes

act "It comes back"
show skeind lab heal --name demo
for ((begin = SECONDS; $(ready_nodes) < 3; )); do
	((SECONDS - begin < limit)) || fail "machine $victim is not ready again after $limit s"
	sleep 0.2
done
show skein get nodes

act "Act two: the leader's machine loses its power"
leader=$(skein get nodes --no-headers | awk '$4 == "yes" { print $1 }') # column LEADER
[[ -n $leader ]] || fail "no machine says that it leads"
echo "   that is $leader"
cut_power "$leader"
show skein get nodes
show skein get pods -o wide

act "That was all: the lab goes, and leaves nothing"
