#!/usr/bin/env bash
# What `make vm-test` runs: boots a Debian under software emulation, with cgroup
# v2 and systemd, and lets guest.sh try skein in it. It prints a line for each
# check, and exits 0 only if all were made and passed.
set -euo pipefail
export LC_ALL=C
cd "$(dirname "$0")/../../.."
here=agent/lab/vm
cache=.cache/vm
limit=${VM_LIMIT:-1800} # seconds for all of it
only=${VM_ONLY:-all}     # or: service, lab, runtime

key=$(cat $here/image.sh $here/*.service | sha256sum | cut -c1-12)
if [[ ! -f $cache/$key/root.img ]]; then
	echo "making the machine's image of Debian packages (once)"
	rm -rf "$cache"
	mkdir -p "$cache"
	bash $here/image.sh "$cache/$key" >"$cache/image.log" 2>&1 || { tail -n 30 "$cache/image.log" >&2; exit 1; }
fi

work=$(mktemp -d)
qemu=
finish() {
	code=$?
	trap - EXIT INT TERM
	[[ -z $qemu ]] || kill "$qemu" 2>/dev/null || true
	if ((code != 0)) && [[ -f $work/console.1 ]]; then
		cat "$work"/console.* >$cache/console.log
		echo "the last words of the machine (all of them: $cache/console.log):" >&2
		tail -n 40 $cache/console.log | tr -d '\r' >&2
	fi
	rm -rf "$work"
	exit "$code"
}
trap finish EXIT
trap 'exit 130' INT TERM

# The second disk: skein, a second build of it, and the tests of the runtime,
# compiled, with what they would compile themselves.
in=$work/in
mkdir -p "$in/bin" "$in/built" "$in/src"
build() { CGO_ENABLED=0 go build -trimpath -buildvcs=false "$@"; }
cp bin/skeind bin/skein bin/payload/runc "$in/bin/"
build -ldflags '-s -w -X main.version=vm-next' -o "$in/bin/skeind-next" ./agent/skeind
build -ldflags '-s -w' -o "$in/built/skeeper" ./runtime/keeper/skeeper
build -ldflags '-s -w' -o "$in/built/prog" ./runtime/runc/testdata/prog
go list -deps ./runtime/keeper/skeeper >"$in/built/deps"
pattern=${VM_TESTS:-./runtime/...}
for dir in $(go list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}' $pattern); do
	dir=${dir#*/skein/}
	mkdir -p "$in/src/$dir"
	CGO_ENABLED=0 go test -c -trimpath -buildvcs=false -ldflags '-s -w' -o "$in/src/$dir/test" "./$dir"
	[[ ! -d $dir/testdata ]] || cp -r "$dir/testdata" "$in/src/$dir/"
done
cp $here/guest.sh $here/go "$in/"
truncate -s 512M "$work/in.img"
mke2fs -q -t ext4 -d "$in" "$work/in.img"
rm -rf "$in"

# The lab keeps its data in /run, which gets a tenth of the memory.
# One processor: emulated ones that wait for each other stall on a busy machine.
# The image stays as it is: what the machine writes is for this run.
qemu-img create -q -f qcow2 -F raw -b "$PWD/$cache/$key/root.img" "$work/root.qcow2"
mkfifo "$work/said"

# boot is one boot. A reboot is another process: emulation is many times slower
# over memory that has held code before.
boot() {
	exec timeout "$((limit - SECONDS))" qemu-system-x86_64 -nodefaults -no-user-config -no-reboot -display none \
		-machine "q35,accel=${VM_ACCEL:-tcg}" -cpu max -smp "${VM_CPUS:-1}" -m 4096 -nic none \
		-kernel "$cache/$key/vmlinuz" -initrd "$cache/$key/initrd" \
		-append "root=/dev/vda rw console=ttyS0 quiet systemd.show_status=0 mitigations=off panic=-1 vmtest.only=$only" \
		-drive "file=$work/root.qcow2,if=virtio,format=qcow2,cache=unsafe" \
		-drive "file=$work/in.img,if=virtio,format=raw,readonly=on" \
		-device virtio-rng-pci \
		-serial "file:$work/console.$1" -serial "file:$work/said" </dev/null >/dev/null
}
(
	exec 4>"$work/said" # open until the last boot
	trap 'kill "$pid" 2>/dev/null; exit 1' TERM
	for i in 1 2 3; do
		[[ ! -f $work/over ]] && ((SECONDS < limit)) || break
		boot "$i" &
		pid=$!
		wait "$pid" || break
	done
) &
qemu=$!

# A line is "ok WHAT", "FAIL WHAT", "# remark" or, at the very end, "done".
began=$SECONDS passed=0 failed=0 complete=
while IFS= read -r line; do
	line=${line%$'\r'}
	case $line in
	'ok '*) passed=$((passed + 1)) ;;
	'FAIL '*) failed=$((failed + 1)) ;;
	done) complete=1; touch "$work/over"; break ;;
	esac
	printf '%4d s  %s\n' "$((SECONDS - began))" "$line"
done <"$work/said"
printf 'vm-test: %d passed, %d failed in %d s\n' "$passed" "$failed" "$((SECONDS - began))"
[[ ! $complete ]] || timeout 20 tail --pid="$qemu" -f /dev/null || true # it is about to go
[[ $complete ]] || { echo "vm-test: the machine ended, or its $limit s were over, before the test did" >&2; exit 1; }
((failed == 0))
