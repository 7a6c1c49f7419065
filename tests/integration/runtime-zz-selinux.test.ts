import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync, mkdirSync, mkdtempSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { CriHost } from './cri-host.ts';
import { BerthHost } from './berth-host.ts';
import { RuntimeService } from '#gen/cri-v1_pb.js';
import { type RuntimeHost, type TestPod, makeSpec, skipReason, startRuntimeHost, writeRoot } from './runtime-host.ts';
const { method } = RuntimeService;
describe('selinux', { skip: skipReason() }, () => {
  let environment: RuntimeHost;
  let pod: TestPod;
  let cri: CriHost;
  before(async () => {
    mkdirSync('/etc/selinux/targeted/contexts', { recursive: true });
    writeFileSync('/etc/selinux/config', 'SELINUX=permissive\nSELINUXTYPE=targeted\n');
    writeFileSync('/etc/selinux/targeted/contexts/lxc_contexts', 'process = "system_u:system_r:container_t:s0"\nfile = "system_u:object_r:container_file_t:s0"\n');
    cri = await CriHost.open();
    execFileSync('mount', ['-t', 'selinuxfs', 'selinuxfs', '/sys/fs/selinux']);
    writeFileSync('/sys/fs/selinux/load', readFileSync(new URL('../guest/zz-policy.33', import.meta.url)));
    await cri.restart('SIGTERM');
    environment = await startRuntimeHost('/var/tmp');
    pod = await environment.makePod({ shm: { sizeBytes: 1 << 20, mountLabel: 'system_u:object_r:container_file_t:s0:c4,c5' } });
  });
  after(async () => {
    await pod?.[Symbol.asyncDispose]();
    await environment?.[Symbol.asyncDispose]();
  });
  it('labels', async () => {
    const storeDir = mkdtempSync(join(environment.directory, 'store-'));
    for (const name of ['l1', 'l2', 'u', 'w', 'm']) mkdirSync(join(storeDir, name));
    writeRoot(join(storeDir, 'l1'));
    const label = 'system_u:system_r:container_t:s0:c4,c5';
    const mountLabel = 'system_u:object_r:container_file_t:s0:c4,c5';
    const spec = makeSpec(environment.host, {
      args: ['/bin/sh', '-c', 'cat /proc/self/attr/current; echo; grep -E "context=" /proc/self/mountinfo'],
      process: { selinuxLabel: label },
      linux: { mountLabel, seccomp: undefined },
    });
    const rootfs = { kind: 'overlay', storeDir, lower: ['l2', 'l1'], upper: 'u', work: 'w', mountpoint: join(storeDir, 'm') } as const;
    const { output } = await pod.run('labels', spec, { rootfs });
    console.log(output);
    const { pid, input } = await pod.start('long', { ...spec, process: { ...spec.process!, args: ['/bin/sleep', '100'] } }, { rootfs });
    console.log('exec', (await pod.exec('exec', input, pid, ['/bin/cat', '/proc/self/attr/current'])).text);
    await pod.shim.signalProcess('long', 9);
    await assert.rejects(pod.start('bad', makeSpec(environment.host, { args: ['/bin/true'], process: { selinuxLabel: 'system_u:system_r:nothing_t:s0' } })), (e) => { console.log(String(e)); return true; });
    assert.ok(output.includes(label));
  });
  it('cri', async () => {
    const { containerId } = await cri.startContainer('sleep 1000', {});
    const look = async (id: string): Promise<string> => Buffer.from((await cri.call(method.execSync, { containerId: id, cmd: ['/usr/bin/busybox', 'sh', '-c', 'cat /proc/self/attr/current; echo; grep context= /proc/self/mountinfo | cut -d" " -f5,6-'] })).stdout).toString();
    console.log(await look(containerId));
    const second = await cri.startContainer('sleep 1000', { pod: { linux: { securityContext: { privileged: true } } }, container: { linux: { securityContext: { privileged: true } } } });
    console.log('privileged', await look(second.containerId));
    const third = await cri.startContainer('sleep 1000', { container: { linux: { securityContext: { selinuxOptions: { level: 's0:c4,c5' } } } } });
    console.log('level', await look(third.containerId));
    await cri.startContainer('sleep 1000', { container: { linux: { securityContext: { selinuxOptions: { type: 'nothing_t' } } } } }).catch((e) => console.log(String(e)));
    await cri[Symbol.asyncDispose]();
  });
  it('unpack', async () => {
    execFileSync('dmesg', ['-C']);
    const host = await BerthHost.open().catch((e) => { console.log(String(e)); });
    console.log(execFileSync('dmesg', { encoding: 'utf8' }).slice(0, 5000));
    console.log(execFileSync('sh', ['-c', 'mkdir -p /var/tmp/q/r && getfattr -d -m - /var/tmp/q /var/tmp; mkdir /var/tmp/q/s && echo ok'], { encoding: 'utf8' }));
    await host?.[Symbol.asyncDispose]();
  });
});
