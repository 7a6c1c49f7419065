/** A manifest with `hostUsers: false` through the command line, on every kernel: mapped layers or copies of them, volumes, exec. Needs root and busybox-static. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { BerthHost, manifest, shellContainer, skipReason } from './berth-host.ts';

describe('a pod with users of its own', { skip: skipReason() }, () => {
  let host: BerthHost;
  before(async () => {
    host = await BerthHost.open();
  });
  after(async () => {
    await host[Symbol.asyncDispose]();
  });

  it('runs a manifest with hostUsers: false as mapped users, whose volumes show their owners', async () => {
    const volumeMounts = [{ name: 'data', mountPath: '/data' }];
    const script = (more: string): string => `set -e; test "$(awk '{print $2}' /proc/self/uid_map)" -ge 131072; id -u; ${more}; stat -c %u:%g /data/file`;
    const spec = {
      hostUsers: false,
      shareProcessNamespace: true,
      volumes: [{ name: 'data', emptyDir: {} }],
      initContainers: [shellContainer('first', script('echo x > /data/file; chown 33:34 /data/file'), { volumeMounts })],
      containers: [shellContainer('main', script('echo made > /made; cat /etc/hosts > /dev/null; echo x > /dev/shm/x'), { volumeMounts })],
    };
    const { status, stdout, stderr } = await host.berth(['run', '-'], manifest(spec, 'own-users'));
    assert.equal(status, 0, stdout + stderr);
    assert.deepEqual(
      [...stdout.matchAll(/^(?:first|main) *\| (\S+)$/gm)].map(([, word]) => word),
      ['0', '33:34', '0', '33:34'],
    );
  });

  it('refuses it beside the processes of the host', async () => {
    const { status, stderr } = await host.berth(['run', '-'], manifest({ hostUsers: false, hostPID: true, containers: [shellContainer('main', 'true')] }));
    assert.notEqual(status, 0);
    assert.match(stderr, /spec\.hostUsers: cannot be false with hostPID/);
  });
});
