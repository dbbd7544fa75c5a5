#!/usr/bin/env bash
# build.sh DIR makes images of well-known programs out of Debian's packages, from
# the mirror this machine is set to use: DIR/NAME.tar, each as "docker save" writes
# it, all upon one layer. As root. What is there already and was made by this very
# script is kept.
set -euo pipefail
out=$(mkdir -p "$1" && cd "$1" && pwd)
made=$(sha256sum <"$0")
[[ -f $out/made && $(<"$out/made") == "$made" ]] && exit 0
rm -f "$out"/*.tar "$out/made"

work=$(mktemp -d)
clean() {
	mountpoint -q "$work/root" && umount "$work/root"
	rm -rf "$work"
}
trap clean EXIT

. /etc/os-release
sources=/etc/apt/sources.list.d/debian.sources
[[ -s $sources ]] || sources=/etc/apt/sources.list
lean=(--dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/doc/*')

mkdir "$work"/{base,layers,root}
mmdebstrap --quiet --variant=minbase --aptopt='Acquire::Retries "3"' "${lean[@]}" \
	"$VERSION_CODENAME" "$work/base.tar" "$sources"
tar -C "$work/base" --numeric-owner -xpf "$work/base.tar"
rm -rf "$work"/base/{var/lib/apt/lists,var/cache/apt,dev}/*

# layer DIR FILE packs a folder so that the same content gives the same bytes.
layer() {
	tar -C "$1" --sort=name --numeric-owner --mtime=@0 --xattrs --xattrs-exclude='trusted.*' -cf "$2" .
}
layer "$work/base" "$work/layers/base.tar"

# install NAME PACKAGE... puts packages upon the base and keeps what they add.
install() {
	local name=$1 upper=$work/$1
	shift
	mkdir -p "$upper" "$work/.$name"
	mount -t overlay -o "lowerdir=$work/base,upperdir=$upper,workdir=$work/.$name" overlay "$work/root"
	cp -r /etc/apt/. "$work/root/etc/apt/"
	cp /etc/resolv.conf "$work/root/etc/"
	mkdir -p "$work/root/usr/share/keyrings"
	cp /usr/share/keyrings/debian-archive-keyring.gpg "$work/root/usr/share/keyrings/"
	printf '#!/bin/sh\nexit 101\n' >"$work/root/usr/sbin/policy-rc.d" # nothing is started here
	chmod 755 "$work/root/usr/sbin/policy-rc.d"
	# shellcheck disable=SC2016
	unshare --mount --pid --fork sh -ec '
		root=$1; shift
		mount --bind /dev "$root/dev"
		mount -t proc proc "$root/proc"
		exec chroot "$root" /bin/sh -ec "
			export DEBIAN_FRONTEND=noninteractive LC_ALL=C
			apt-get -qq -o Acquire::Retries=3 update
			apt-get -qq -o DPkg::Options::=--force-unsafe-io install -y --no-install-recommends $*
			apt-get clean
			find /var/lib/apt/lists /var/cache/apt /var/log -type f -exec truncate -s 0 {} +"' sh "$work/root" "$@" >"$work/$name.log" 2>&1 </dev/null ||
		{ tail -n 20 "$work/$name.log" >&2; exit 1; }
	umount "$work/root"
	rm -rf "$upper"/{etc/apt,etc/resolv.conf,usr/sbin/policy-rc.d,usr/share/keyrings,dev,proc,run,tmp}
	if find "$upper" -type c | grep -q .; then # a whiteout: packages only add here
		echo "$name removes files of the base:" >&2
		find "$upper" -type c >&2
		exit 1
	fi
	layer "$upper" "$work/layers/$name.tar"
}

# save NAME:TAG CONFIG LAYER... writes the archive.
save() {
	local ref=$1 config=$2 dir diffs=() files=()
	shift 2
	dir=$work/save
	rm -rf "$dir" && mkdir "$dir"
	for l in "$@"; do
		ln "$work/layers/$l.tar" "$dir/$l.tar"
		diffs+=("sha256:$(sha256sum <"$dir/$l.tar" | cut -d' ' -f1)")
		files+=("$l.tar")
	done
	jq -cn --argjson config "$config" --arg arch "$(dpkg --print-architecture)" --args '{
		architecture: $arch, os: "linux", created: "1970-01-01T00:00:00Z", config: $config,
		rootfs: {type: "layers", diff_ids: $ARGS.positional},
		history: [$ARGS.positional[] | {created: "1970-01-01T00:00:00Z"}]}' "${diffs[@]}" >"$dir/config.json"
	jq -cn --arg ref "$ref" --args '[{Config: "config.json", RepoTags: [$ref], Layers: $ARGS.positional}]' "${files[@]}" >"$dir/manifest.json"
	tar -C "$dir" -cf "$out/${ref%%:*}.tar" .
}

install nginx nginx-light
install redis redis-server
install apache apache2
install postgres postgresql
install python python3

# Nobody reads a log file in a container: these two go where it is read.
mkdir -p "$work"/logs/var/log/{nginx,apache2}
for f in nginx/access.log apache2/access.log apache2/other_vhosts_access.log; do ln -s /dev/stdout "$work/logs/var/log/$f"; done
for f in nginx/error.log apache2/error.log; do ln -s /dev/stderr "$work/logs/var/log/$f"; done
layer "$work/logs" "$work/layers/logs.tar"

save nginx:1.22 '{"Cmd":["nginx","-g","daemon off;"],"ExposedPorts":{"80/tcp":{}},"StopSignal":"SIGQUIT"}' base nginx logs
save redis:7 '{"Entrypoint":["redis-server"],"Cmd":["--protected-mode","no"],"User":"redis","WorkingDir":"/data","Volumes":{"/data":{}},"ExposedPorts":{"6379/tcp":{}}}' base redis
save apache:2.4 '{"Cmd":["apache2ctl","-D","FOREGROUND"],"ExposedPorts":{"80/tcp":{}},"StopSignal":"SIGWINCH"}' base apache logs
save postgres:15 '{"Cmd":["postgres"],"User":"postgres","Env":["PATH=/usr/lib/postgresql/15/bin:/usr/sbin:/usr/bin:/sbin:/bin","PGDATA=/var/lib/postgresql/data"],"ExposedPorts":{"5432/tcp":{}},"StopSignal":"SIGINT"}' base postgres
save python:3.11 '{"Cmd":["python3"]}' base python
echo "$made" >"$out/made"
