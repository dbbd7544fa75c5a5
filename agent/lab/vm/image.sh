#!/usr/bin/env bash
# image.sh DIR makes a Debian of packages alone, from the mirror this machine is
# set to use: DIR/root.img (ext4), DIR/vmlinuz and DIR/initrd. As root.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

. /etc/os-release
sources=/etc/apt/sources.list.d/debian.sources
[[ -s $sources ]] || sources=/etc/apt/sources.list

packages=systemd-sysv,udev,kmod,iproute2,nftables,procps,busybox-static,linux-image-cloud-amd64,initramfs-tools
mmdebstrap --quiet --variant=minbase --include="$packages" \
	--aptopt='Acquire::Retries "3"' \
	--dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
	--dpkgopt='path-exclude=/usr/share/doc/*' \
	"$VERSION_CODENAME" "$work/root.tar" "$sources"
mkdir "$work/root"
tar -C "$work/root" --numeric-owner -xf "$work/root.tar"
rm "$work/root.tar"

root=$work/root
echo vm >"$root/etc/hostname"
echo '127.0.0.1 localhost vm' >"$root/etc/hosts"
: >"$root/etc/fstab"
: >"$root/etc/machine-id" # made anew at the first boot, and kept
mkdir -p "$root/mnt/in" "$root/etc/systemd/system/multi-user.target.wants" "$root/var/log/journal"
cp "$here/vm-test.service" "$here/vm-net.service" "$root/etc/systemd/system/"
for unit in vm-test vm-net; do
	ln -s "../$unit.service" "$root/etc/systemd/system/multi-user.target.wants/$unit.service"
done
for unit in getty@tty1.service serial-getty@ttyS0.service serial-getty@ttyS1.service apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer fstrim.timer dpkg-db-backup.timer; do
	ln -sf /dev/null "$root/etc/systemd/system/$unit"
done

mkdir -p "$out"
cp "$root"/boot/vmlinuz-* "$out/vmlinuz"
cp "$root"/boot/initrd.img-* "$out/initrd"
truncate -s 3G "$out/root.img.new"
mke2fs -q -t ext4 -L root -d "$root" "$out/root.img.new"
mv "$out/root.img.new" "$out/root.img"
