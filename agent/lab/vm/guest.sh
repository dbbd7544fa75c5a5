#!/bin/bash
# Runs in the machine, once after every boot, and goes on where the boot before
# left off. It says a line for each check; see run.sh.
set -uo pipefail
export LC_ALL=C HOME=/root PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
in=/mnt/in
state=/var/lib/vm-test
mkdir -p $state
cd $state || exit 1

ok() { echo "ok $*"; }
fail() {
	echo "FAIL $*"
	echo "--- FAIL $*" >/dev/console
	{ systemctl status --no-pager skein; journalctl -q --no-pager -u skein -n 25; skein get pods -o wide; } >/dev/console 2>&1
}
# check WHAT COMMAND...: the command succeeds.
check() {
	local what=$1
	shift
	if "$@" >$state/out 2>&1; then ok "$what"; else
		fail "$what"
		sed 's/^/# /' $state/out | tail -n 8
	fi
}
# soon SECONDS COMMAND...: the command succeeds within so many.
soon() {
	local end=$((SECONDS + $1))
	shift
	until "$@" >$state/soon 2>&1; do
		((SECONDS < end)) || { cat $state/soon; echo "not so in time: $*"; return 1; }
		sleep 0.3
	done
}
same() { [[ $1 == "$2" ]] || { echo "before: $1"; echo "after:  $2"; return 1; }; }
differ() { [[ -n $2 && $1 != "$2" ]] || { echo "before and after: $1, $2"; return 1; }; }

main_pid() { systemctl show -p MainPID --value skein; }
agent_pid() { cat /var/lib/skein/keeper/agent.pid; }
# containers lists every process in a container, with when it started.
containers() {
	local pid
	find /sys/fs/cgroup/skein -name cgroup.procs -exec cat {} + 2>/dev/null | sort -n | while read -r pid; do
		echo "$pid@$(sed 's/.*) //' "/proc/$pid/stat" | cut -d' ' -f20)"
	done | paste -sd' '
}
ready() { [[ $(skein get pods --no-headers 2>/dev/null | awk '{split($2, r, "/")} r[1] == r[2] && $3 == "Running"' | wc -l) == "$1" ]]; }
restarts() { skein get pods --no-headers | awk '{ n += $4 } END { print n + 0 }'; }
group_of() { cut -d: -f3 "/proc/$1/cgroup"; }

install_skein() {
	install -m 0755 $in/bin/skeind $in/bin/skein /usr/local/bin/
	skeind unit >/etc/systemd/system/skein.service
	cat >/etc/default/skein <<-END
		SKEIN_INIT=true
		SKEIN_DEMO_IMAGES=true
		SKEIN_ADVERTISE=10.99.0.1
	END
	systemctl daemon-reload
	systemctl enable -q skein
}

# busybox_image writes FILE, as docker save would, with the machine's busybox.
busybox_image() {
	local dir
	dir=$(mktemp -d)
	mkdir -p "$dir/root/bin"
	cp /bin/busybox "$dir/root/bin/"
	local name
	for name in sh tail sleep cat; do ln -s busybox "$dir/root/bin/$name"; done
	tar -C "$dir/root" -cf "$dir/layer.tar" bin
	printf '{"architecture":"amd64","os":"linux","config":{"Cmd":["/bin/sh"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
		"$(sha256sum "$dir/layer.tar" | cut -d' ' -f1)" >"$dir/config.json"
	echo '[{"Config":"config.json","RepoTags":["test/busybox:1"],"Layers":["layer.tar"]}]' >"$dir/manifest.json"
	tar -C "$dir" -cf "$1" manifest.json config.json layer.tar
	rm -rf "$dir"
}

# pod NAME MEMORY CPU COMMAND prints a Pod that is not started again.
pod() {
	cat <<-END
		apiVersion: v1
		kind: Pod
		metadata: {name: $1}
		spec:
		  restartPolicy: Never
		  terminationGracePeriodSeconds: 1
		  containers:
		  - name: main
		    image: test/busybox:1
		    command: [/bin/sh, -c, "$4"]
		    resources: {limits: {memory: $2, cpu: $3}}
	END
}

# file_of POD NAME reads a file of a container's group.
file_of() {
	local uid
	uid=$(skein get pod "$1" -o json | sed -n 's/.*"uid": *"\([^"]*\)".*/\1/p' | head -n 1)
	cat "$(find /sys/fs/cgroup/skein -path "*$uid*" -name "$2" | awk '{ print length, $0 }' | sort -n | tail -n 1 | cut -d' ' -f2)"
}

limits() {
	busybox_image $state/busybox.tar
	check "an image is imported" skein image import $state/busybox.tar
	pod eater 64Mi 100m 'exec tail /dev/zero' >$state/eater.yaml
	pod spinner 64Mi 200m 'while :; do :; done' >$state/spinner.yaml
	check "two Pods with limits are accepted" skein apply -f $state/eater.yaml -f $state/spinner.yaml
	oom() { skein get pod eater -o json | grep -q '"OOMKilled"'; }
	check "memory: who takes more than the limit is killed, and the Pod says OOMKilled" soon 60 oom
	spins() { skein get pod spinner --no-headers | grep -q Running; }
	check "cpu: a Pod that spins runs" soon 60 spins
	check "memory.max is the limit" same "$((64 << 20))" "$(file_of spinner memory.max)"
	check "cpu.max is the limit" same '20000 100000' "$(file_of spinner cpu.max)"
	check "pids.max is set" same 4096 "$(file_of spinner pids.max)"
	local began used
	began=$(date +%s%N)
	used=$(file_of spinner cpu.stat | awk '$1 == "usage_usec" { print $2 }')
	sleep 5
	used=$(($(file_of spinner cpu.stat | awk '$1 == "usage_usec" { print $2 }') - used))
	local share=$((used * 1000 * 1000 / ($(date +%s%N) - began))) # thousandths of a processor
	within() { ((share > 100 && share < 260)) || { echo "$share thousandths of a processor"; return 1; }; }
	check "cpu: a Pod limited to 200m gets about that" within
	check "both are deleted" skein delete pod eater spinner
}

# alike says whether the same processes run in containers, and else what does.
alike() {
	same "$before" "$(containers)" && return
	find /sys/fs/cgroup/skein -name cgroup.procs | while read -r file; do
		for pid in $(cat "$file"); do echo "$pid $(tr '\0' ' ' <"/proc/$pid/cmdline") in ${file#/sys/fs/cgroup}"; done
	done
	return 1
}

# untouched WHAT: the containers are those of before, and the agent has them all.
# What an agent that died was about to do in one is ended soon.
untouched() {
	check "$1: the same processes run in the containers" soon 30 alike
	check "$1: both Pods are ready" soon 60 ready 2
	check "$1: no container was started again" same "$count" "$(restarts)"
}

first_boot() {
	echo "# $(uname -r), systemd $(systemctl --version | awk 'NR == 1 { print $2 }'), $(nproc) processors"
	check "this is cgroup v2 alone" same cgroup2fs "$(stat -fc %T /sys/fs/cgroup)"
	install_skein
	check "systemctl start" systemctl start skein
	check "once started, it serves" skein status
	serving() { systemctl show -p StatusText --value skein | grep -q '^serving'; }
	check "systemctl status says so" serving
	secret() { ! journalctl -q -u skein | grep -q 'skein1-'; }
	check "the journal holds no token" secret
	check "the watchdog is on" same 30s "$(systemctl show -p WatchdogUSec --value skein)"
	check "two Pods start" skein run web --image skein/demo:v1 --replicas 2 --memory 64Mi --cpu 200m --timeout 3m
	check "the agent is in the unit's group" same /system.slice/skein.service "$(group_of "$(agent_pid)")"
	check "no container is in the unit's group" same "$(main_pid) $(agent_pid)" "$(sort -n /sys/fs/cgroup/system.slice/skein.service/cgroup.procs | paste -sd' ')"
	controllers() { local c; for c in cpu memory pids; do grep -qw $c /sys/fs/cgroup/skein/cgroup.subtree_control || return 1; done; }
	check "limits are enabled where containers are" controllers
	systemctl daemon-reload
	check "and systemd leaves them so" controllers
	limits

	before=$(containers) count=$(restarts)
	local keeper agent
	keeper=$(main_pid) agent=$(agent_pid)
	anew() { [[ $(cat /var/lib/skein/keeper/agent.ready) != "$agent" ]]; }

	kill -9 "$agent"
	check "agent killed: another serves" soon 30 anew
	untouched "agent killed"

	agent=$(agent_pid)
	kill -STOP "$agent"
	check "agent wedged: another serves" soon 60 anew
	untouched "agent wedged"

	install -m 0755 $in/bin/skeind-next /usr/local/bin/skeind
	agent=$(agent_pid)
	check "a new build, systemctl reload" systemctl reload skein
	check "reload: the new agent serves already" anew
	version() { skein version | grep -q vm-next; }
	check "reload: it is of the new build" version
	check "reload: the service is the same process" same "$keeper" "$(main_pid)"
	check "reload: the service did not fail" same "active 0" "$(systemctl show -p ActiveState --value skein) $(systemctl show -p NRestarts --value skein)"
	untouched reload

	echo 'not a program' >/usr/local/bin/.new && chmod 755 /usr/local/bin/.new && mv /usr/local/bin/.new /usr/local/bin/skeind
	agent=$(agent_pid)
	refused() { ! systemctl reload skein; }
	check "a broken build: reload is refused" refused
	check "a broken build: agent and keeper go on" same "$keeper $agent active" "$(main_pid) $(agent_pid) $(systemctl show -p ActiveState --value skein)"
	install -m 0755 $in/bin/skeind /usr/local/bin/skeind
	untouched "broken build"

	check "systemctl restart" systemctl restart skein
	check "restart: another keeper" differ "$keeper" "$(main_pid)"
	untouched restart

	keeper=$(main_pid)
	kill -9 "$keeper"
	another() { local pid; pid=$(main_pid); ((pid > 0 && pid != keeper)) && [[ $(systemctl show -p ActiveState --value skein) == active ]]; }
	check "keeper killed: systemd starts another" soon 60 another
	untouched "keeper killed"

	keeper=$(main_pid)
	kill -STOP "$keeper"
	check "keeper wedged: the watchdog replaces it" soon 150 another
	untouched "keeper wedged"

	check "systemctl stop" systemctl stop skein
	check "stop: the containers run on" alike
	check "stop: neither keeper nor agent runs" same 0 "$(main_pid)"
	told() { systemctl show -p StatusText --value skein | grep -q 'containers that run on: 2'; }
	check "stop: systemctl status says what runs on" told
	check "systemctl start" systemctl start skein
	untouched start
	after_boot reboot
}

# after_boot PHASE notes what there is before the machine goes down.
after_boot() {
	echo "$1" >$state/phase
	cat /proc/sys/kernel/random/boot_id >$state/boot
	skein get pods -o json | grep '"uid"' | sort >$state/uids
	sync
	case $1 in
	reboot)
		echo "# systemctl reboot"
		systemctl reboot
		;;
	power)
		echo "# power loss"
		echo b >/proc/sysrq-trigger
		;;
	esac
	sleep 600
}

# booted WHAT: what was there before the machine went down is there again.
booted() {
	check "$1: this is another boot" differ "$(cat $state/boot)" "$(cat /proc/sys/kernel/random/boot_id)"
	active() { [[ $(systemctl show -p ActiveState --value skein) == active ]]; }
	check "$1: the service is up" soon 120 active
	check "$1: both Pods run again" soon 120 ready 2
	echo "# $1: $(cut -d' ' -f1 /proc/uptime) s after the kernel began"
}

runtime_tests() {
	mkdir -p /usr/local/bin /root/src
	install -m 0755 $in/go /usr/local/bin/go
	cp -r $in/src/. /root/src/
	export SKEIN_RUNC=$in/bin/runc
	local dir
	for dir in $(cd /root/src && find . -name test | sort); do
		dir=$(dirname "${dir#./}")
		check "tests of $dir" unit_test "$dir"
	done
}
unit_test() {
	cd "/root/src/$1" || return 1
	timeout 400 ./test -test.timeout=380s >$state/log 2>&1
	local code=$?
	((code == 0)) || {
		{ echo "--- $1"; cat $state/log; } >/dev/console
		grep -E -A6 -- '--- FAIL|^panic|no such file' $state/log | head -n 40
		tail -n 3 $state/log
	}
	cd $state || return 1
	return $code
}

# lab is a cluster of three in namespaces of this machine.
lab() {
	install -m 0755 $in/bin/skeind $in/bin/skein /usr/local/bin/
	check "lab: three machines" skeind lab up
	check "lab: three Pods on them" skein run web --image skein/demo:v1 --replicas 3 --memory 32Mi --cpu 50m --timeout 3m
	tail -n 30 /run/skein/lab/*/*/agent.log >/dev/console 2>&1
	check "lab: down" skeind lab down
	check "lab: no group is left" test ! -e /sys/fs/cgroup/skein-lab
}

finish() {
	sync
	echo done
	systemctl poweroff --force --force
}

only=$(sed -n 's/.*vmtest\.only=\([a-z]*\).*/\1/p' /proc/cmdline)
case $only/$(cat $state/phase 2>/dev/null) in
runtime/*)
	runtime_tests
	finish
	;;
lab/*)
	lab
	finish
	;;
*/) first_boot ;;
*/reboot)
	booted reboot
	after_boot power
	;;
*/power)
	booted "power loss"
	check "systemctl stop" systemctl stop skein
	check "nothing is left of skein after cleanup" skeind cleanup --yes
	if [[ $only == all ]]; then
		lab
		runtime_tests
	fi
	finish
	;;
esac
