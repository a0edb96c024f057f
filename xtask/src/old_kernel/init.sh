#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/tools:/bin SLUICE_EBPF_OBJECT=/sluice.o SLUICE_CLOCK_OBJECT=/clock.o SLUICE_TEST_FRAMES=2000 SLUICE_TEST_SEEDS=1 RUST_BACKTRACE=0
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ip link set lo up
for module in /modules/*.ko; do insmod "$module"; done
echo "guest: Linux $(uname -r)"
for test in /tests/*; do "$test" --test-threads=1 $(cat /filter) 2>&1; done
poweroff -f
