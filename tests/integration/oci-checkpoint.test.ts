import { execFileSync } from 'node:child_process';
import { test } from 'node:test';
import { mkdirSync, writeFileSync } from 'node:fs';
import { makeDocument } from './oci-host.ts';
import { writeRoot } from './runtime-host.ts';
test('probe', () => {
  const bundle = '/run/probe';
  mkdirSync(`${bundle}/rootfs`, { recursive: true });
  writeRoot(`${bundle}/rootfs`);
  writeFileSync(`${bundle}/config.json`, JSON.stringify(makeDocument(['sh', '-c', 'i=0; while :; do i=$((i+1)); echo $i > /count; sleep 1; done'])));
  const script = `
set +e
uname -r; echo == check; timeout 120 criu check; echo rc=$?
timeout 60 criu check --all 2>&1 | tail -20
mkdir -p /run/img /run/img2
setsid sleep 1000 </dev/null >/dev/null 2>&1 & p=$!
sleep 1
echo == dump; timeout 120 criu dump -t $p -D /run/img -o dump.log --shell-job; echo rc=$?
tail -5 /run/img/dump.log
kill -9 $p; wait $p
echo == restore; timeout 120 criu restore -D /run/img -o restore.log -d --shell-job; echo rc=$?; tail -5 /run/img/restore.log
kill -9 $p
cd ${bundle}
RUNC=/berth/build/go/runc; [ -x $RUNC ] || RUNC=runc
for RUNC in runc /berth/dist/berth-oci; do
export BERTH_OCI_ENGINE=none
echo == $RUNC
rm -rf /run/img2; mkdir -p /run/img2
$RUNC --root /run/rr create c1 </dev/null >/dev/null 2>&1; echo rc=$?
$RUNC --root /run/rr start c1; echo rc=$?
sleep 4; cat rootfs/count
pid=$($RUNC --root /run/rr state c1 | sed -n 's/.*"pid": \\([0-9]*\\).*/\\1/p'); echo pid=$pid
cat /proc/$pid/mountinfo
cat /proc/$pid/cgroup
if [ $RUNC = runc ]; then
timeout 200 runc --root /run/rr checkpoint --image-path /run/img2 --work-path /run/img2 c1; echo rc=$?
tail -5 /run/img2/dump.log
cat rootfs/count
runc --root /run/rr list
timeout 200 runc --root /run/rr restore -d --image-path /run/img2 --work-path /run/img2 c2 </dev/null >/dev/null 2>&1; echo rc=$?
tail -5 /run/img2/restore.log
else
ext=""
for m in $(awk '{print $5}' /proc/$pid/mountinfo | sort -u); do [ $m = / ] || ext="$ext --external mnt[$m]:$m"; done
timeout 200 criu dump -vvv -t $pid -D /run/img2 -o dump.log --root ${bundle}/rootfs --manage-cgroups=soft --external 'mnt[]:m' ; echo rc=$?
grep -i -B3 -A3 error /run/img2/dump.log | tail -60
fi
sleep 3; cat rootfs/count
$RUNC --root /run/rr list
$RUNC --root /run/rr delete --force c1
$RUNC --root /run/rr delete --force c2
done
true
`;
  const text = execFileSync('bash', ['-c', `(${script}) 2>&1`], { encoding: 'utf8' });
  throw new Error(text);
});
