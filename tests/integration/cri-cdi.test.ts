/** Devices of the Container Device Interface through CRI: what a vendor's specification adds to a container, hooks of each kind, and what goes wrong with them. */
import assert from 'node:assert/strict';
import { existsSync, globSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, readlinkSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { status } from '@grpc/grpc-js';
import { ContainerState, NamespaceMode, RuntimeService } from '#gen/cri-v1_pb.js';
import { hookKinds } from '#oci';
import { busybox, patienceMs, skipReason } from './berth-host.ts';
import { CriHost } from './cri-host.ts';

const { method } = RuntimeService;

async function until(what: string, condition: () => boolean): Promise<void> {
  for (const deadline = Date.now() + patienceMs; !condition(); await sleep(20)) assert.ok(Date.now() < deadline, `${what}: not within ${patienceMs} ms`);
}

describe('CDI devices', { skip: skipReason() }, () => {
  let host: CriHost;
  let directory = '';
  let [low, high, vendor] = ['', '', ''];

  before(async () => {
    directory = mkdtempSync('/var/tmp/berth-cdi-');
    [low, high, vendor] = [join(directory, 'etc'), join(directory, 'run'), join(directory, 'vendor')];
    for (const path of [low, high, vendor]) mkdirSync(path);
    process.env['BERTH_CDI_SPEC_DIRS'] = `${low}:${high}:${join(directory, 'absent')}`;
    // Where it writes comes first; then what it was told.
    writeFileSync(join(vendor, 'hook'), `#!${busybox} sh\n${busybox} echo "$*" >> "$1"\n${busybox} cat >> "$1"\n${busybox} echo >> "$1"\n`, { mode: 0o755 });
    writeFileSync(join(vendor, 'library'), 'vendor library\n');
    host = await CriHost.open();
  });

  after(async () => {
    await host[Symbol.asyncDispose]();
    delete process.env['BERTH_CDI_SPEC_DIRS'];
    rmSync(directory, { recursive: true, force: true });
  });

  const write = (path: string, kind: string, devices: Readonly<Record<string, object>>, more: object = {}): void =>
    writeFileSync(path, JSON.stringify({ cdiVersion: '0.7.0', kind, devices: Object.entries(devices).map(([name, containerEdits]) => ({ name, containerEdits })), ...more }));
  const script = (name: string, text: string): string => {
    writeFileSync(join(vendor, name), `#!${busybox} sh\n${text}\n`, { mode: 0o755 });
    return join(vendor, name);
  };
  const shell = async (containerId: string, text: string): Promise<string> => {
    const { stdout, stderr, exitCode } = await host.call(method.execSync, { containerId, cmd: [busybox, 'sh', '-c', text], timeout: 0n });
    assert.equal(exitCode, 0, Buffer.from(stderr).toString());
    return Buffer.from(stdout).toString();
  };
  const remove = async (podSandboxId: string): Promise<void> => void (await host.call(method.removePodSandbox, { podSandboxId }));
  /** Creates only; the pod stays for another try. */
  const create = async (
    cdi: readonly string[],
    options: { readonly podSandboxId?: string; readonly attempt?: number; readonly pid?: NamespaceMode } = {},
  ): Promise<{ readonly podSandboxId: string; readonly containerId: string }> => {
    const sandboxConfig = host.podConfig();
    const podSandboxId = options.podSandboxId ?? (await host.call(method.runPodSandbox, { config: sandboxConfig })).podSandboxId;
    const config = host.containerConfig('sleep 1000', {
      metadata: { name: 'main', attempt: options.attempt ?? 0 },
      CDIDevices: cdi.map((name) => ({ name })),
      linux: { securityContext: { namespaceOptions: { pid: options.pid ?? NamespaceMode.POD } } },
    });
    const { containerId } = await host.call(method.createContainer, { podSandboxId, config, sandboxConfig });
    return { podSandboxId, containerId };
  };
  const stateOf = (line: string | undefined): Record<string, unknown> => JSON.parse(line ?? '') as Record<string, unknown>;

  test('a device brings variables, nodes, mounts, groups, and hooks of each kind at their time', async () => {
    const out = (kind: string): string => join(directory, `seen-${kind}`);
    write(
      join(low, 'vendor.json'),
      'vendor.com/gpu',
      {
        0: {
          env: ['GPU=zero', 'FROM=device'],
          deviceNodes: [
            { path: '/dev/vendor/gpu0', hostPath: '/dev/zero', permissions: 'r', fileMode: 0o644 },
            // No driver has these numbers: an open that is allowed finds no device.
            { path: '/dev/vendor/ctl', type: 'c', major: 240, minor: 77, permissions: 'r' },
          ],
          additionalGids: [4444],
          hooks: hookKinds.map((hookName) =>
            hookName === 'startContainer'
              ? { hookName, path: '/vendor/hook', args: ['hook', '/start-seen', hookName] }
              : { hookName, path: join(vendor, 'hook'), args: ['hook', out(hookName), hookName] },
          ),
        },
      },
      { containerEdits: { env: ['FROM=all'], mounts: [{ hostPath: vendor, containerPath: '/vendor', options: ['ro', 'nosuid', 'bind'] }] } },
    );
    const { podSandboxId, containerId } = await create(['vendor.com/gpu=0'], { pid: NamespaceMode.CONTAINER });
    assert.deepEqual(
      hookKinds.filter((kind) => existsSync(out(kind))),
      ['prestart', 'createRuntime', 'createContainer'],
    );
    await host.call(method.startContainer, { containerId });
    assert.equal(
      await shell(containerId, 'echo $GPU $FROM; cat /vendor/library; id -G; head -c 4 /dev/vendor/gpu0 | od -An -tx1; stat -c "%a %t:%T" /dev/vendor/gpu0'),
      'zero device\nvendor library\n0 4444\n 00 00 00 00\n644 1:5\n',
    );
    assert.equal(
      await shell(containerId, '(echo x > /vendor/x) 2>&1; (cat < /dev/vendor/ctl) 2>&1; (echo x > /dev/vendor/ctl) 2>&1; true').then((text) =>
        text.replaceAll(/sh: can't |\/\S+: /g, ''),
      ),
      'create Read-only file system\nopen No such device or address\ncreate Operation not permitted\n',
    );
    const { info } = await host.call(method.containerStatus, { containerId, verbose: true });
    const pid = Number((JSON.parse(info['info'] ?? '{}') as { readonly pid?: number }).pid);
    for (const kind of ['prestart', 'createRuntime', 'createContainer', 'poststart']) {
      const [args, line] = readFileSync(out(kind), 'utf8').split('\n');
      assert.equal(args, `${out(kind)} ${kind}`);
      const state = stateOf(line);
      const status = { prestart: 'created', poststart: 'running' }[kind] ?? 'creating';
      assert.deepEqual([state['id'], state['status'], state['pid']], [containerId, status, kind === 'createContainer' ? 1 : pid], kind);
      assert.equal(readdirSync(String(state['bundle'])).includes('config.json'), true);
    }
    const [, started] = (await shell(containerId, 'cat /start-seen')).split('\n');
    assert.deepEqual([stateOf(started)['id'], stateOf(started)['status'], stateOf(started)['pid']], [containerId, 'created', 1]);
    const bundle = String(stateOf(started)['bundle']);
    const config = stateOf(readFileSync(join(bundle, 'config.json'), 'utf8'));
    assert.deepEqual([config['root'], Object.keys(config['hooks'] as object)], [{ path: 'rootfs', readonly: false }, [...hookKinds]]);
    assert.equal(readlinkSync(join(bundle, 'rootfs')), `/proc/${pid}/root`);
    await host.call(method.removeContainer, { containerId });
    const [, stopped] = readFileSync(out('poststop'), 'utf8').split('\n');
    assert.deepEqual([stateOf(stopped)['id'], stateOf(stopped)['status'], stateOf(stopped)['pid']], [containerId, 'stopped', undefined]);
    assert.equal(existsSync(bundle), false, 'the bundle outlives its container');
    await remove(podSandboxId);
    assert.equal(readFileSync(out('poststop'), 'utf8').trim().split('\n').length, 2, 'a hook of poststop ran twice');
  });

  test('a device is asked for by annotations too, a later directory wins, and YAML is read as its programs write it', async () => {
    write(join(low, 'net.json'), 'vendor.com/net', { eth: { env: ['NET=low'] }, second: { env: ['SECOND=low'] } });
    writeFileSync(
      join(high, 'net.yaml'),
      '---\ncdiVersion: "0.5.0"\nkind: vendor.com/net\ndevices:\n- name: eth\n  containerEdits:\n    env: [NET=high]\n    deviceNodes:\n    - path: /dev/vendor-null\n      hostPath: /dev/null\n      fileMode: 0620\n',
    );
    const annotations = { 'cdi.k8s.io/vendor.com_net': 'vendor.com/net=eth,vendor.com/net=second', other: 'stays' };
    const { podSandboxId, containerId } = await host.startContainer('sleep 1000', { container: { annotations, CDIDevices: [{ name: 'vendor.com/net=eth' }] } });
    assert.equal(await shell(containerId, 'echo $NET $SECOND; stat -c %a /dev/vendor-null'), 'high low\n620\n');
    const { status: found } = await host.call(method.containerStatus, { containerId });
    assert.deepEqual({ ...found?.annotations }, annotations);
    await remove(podSandboxId);
  });

  test('in a user namespace devices and mounts have the owners of the container, and hooks reach its root', async () => {
    const made = join(directory, 'seen-mapped');
    const mount = script('mount-mapped', `${busybox} mount -t tmpfs none rootfs/mnt && ${busybox} touch rootfs/mnt/by-the-hook && ${busybox} cat >${made}`);
    write(join(low, 'mapped.json'), 'vendor.com/mapped', {
      a: {
        deviceNodes: [{ path: '/dev/vendor-mapped', hostPath: '/dev/zero', fileMode: 0o600 }],
        mounts: [
          { hostPath: vendor, containerPath: '/vendor', options: ['ro', 'bind'] },
          { hostPath: vendor, containerPath: '/mnt/again' },
        ],
        hooks: [{ hookName: 'createContainer', path: mount }],
      },
    });
    const ids = [{ containerId: 0, hostId: 100_000, length: 65_536 }];
    const linux = { securityContext: { namespaceOptions: { pid: NamespaceMode.CONTAINER, usernsOptions: { mode: NamespaceMode.POD, uids: ids, gids: ids } } } };
    const { podSandboxId, containerId } = await host.startContainer('sleep 1000', { pod: { linux }, container: { linux, CDIDevices: [{ name: 'vendor.com/mapped=a' }] } });
    assert.equal(
      await shell(containerId, 'stat -c "%n %u %a" /dev/vendor-mapped /vendor/library; head -c 2 /dev/vendor-mapped | od -An -tx1; ls /mnt; grep -c 100000 /proc/self/uid_map'),
      '/dev/vendor-mapped 0 600\n/vendor/library 0 644\n 00 00\nby-the-hook\n1\n',
    );
    assert.equal(stateOf(readFileSync(made, 'utf8'))['pid'], 1);
    await remove(podSandboxId);
  });

  test('a specification that has changed counts for the next container', async () => {
    const path = join(high, 'changing.json');
    write(path, 'vendor.com/changing', { a: { env: ['VALUE=one'] } });
    const first = await host.startContainer('sleep 1000', { container: { CDIDevices: [{ name: 'vendor.com/changing=a' }] } });
    write(path, 'vendor.com/changing', { a: { env: ['VALUE=two'] } });
    const second = await host.startContainer('sleep 1000', { container: { CDIDevices: [{ name: 'vendor.com/changing=a' }] } });
    assert.deepEqual([await shell(first.containerId, 'echo $VALUE'), await shell(second.containerId, 'echo $VALUE')], ['one\n', 'two\n']);
    for (const { podSandboxId } of [first, second]) await remove(podSandboxId);
  });

  test('unknown, doubled and broken definitions fail the creation and are told by Status; other devices go on', async () => {
    const { podSandboxId } = await host.call(method.runPodSandbox, { config: host.podConfig() });
    const failure = async (name: string, code: status, details: RegExp): Promise<void> => {
      await assert.rejects(create([name], { podSandboxId }), (error: { readonly code?: number; readonly details?: string }) => {
        assert.deepEqual([error.code, details.test(error.details ?? '')], [code, true], error.details ?? '');
        return true;
      });
    };
    await failure('vendor.com/none=0', status.NOT_FOUND, /: CDI device vendor\.com\/none=0: no specification defines it$/);
    await failure('none', status.INVALID_ARGUMENT, /config\.CDI_devices\[0\]\.name: "none" is not a device of the form vendor\/class=name$/);
    write(join(low, 'double-1.json'), 'vendor.com/double', { a: { env: ['A=1'] }, alone: { env: ['ALONE=1'] } });
    write(join(low, 'double-2.json'), 'vendor.com/double', { a: { env: ['A=2'] } });
    writeFileSync(join(low, 'broken.json'), '{"cdiVersion":"0.7.0","kind":"vendor.com/broken","devices":[{"name":"a","containerEdits":{"env":["A=1"],"privileged":true}}]}');
    mkdirSync(join(low, 'folder.json'));
    await failure('vendor.com/double=a', status.FAILED_PRECONDITION, /double=a: defined by .*double-1\.json and .*double-2\.json$/);
    await failure('vendor.com/broken=a', status.NOT_FOUND, /no specification defines it \(not readable: .*broken\.json, .*folder\.json\)$/);
    const { info } = await host.call(method.status, { verbose: true });
    assert.match(JSON.stringify(info), /broken\.json: devices\[0\]\.containerEdits\.privileged: unknown field/);
    assert.match(JSON.stringify(info), /folder\.json: is not a regular file/);
    assert.match(JSON.stringify(info), /vendor\.com\/double=a: defined by/);
    const doctor = await host.host.berth(['doctor']);
    assert.match(doctor.stdout, /limited +CDI devices +.*broken\.json: devices\[0\]\.containerEdits\.privileged: unknown field/);
    write(join(low, 'later.json'), 'vendor.com/later', { rdt: { intelRdt: { closID: 'x' } }, gone: { deviceNodes: [{ path: '/dev/none-such' }] } });
    await failure('vendor.com/later=rdt', status.UNIMPLEMENTED, /later=rdt: .*later\.json: containerEdits\.intelRdt: not supported$/);
    await failure('vendor.com/later=gone', status.NOT_FOUND, /later=gone: .*later\.json: read device \/dev\/none-such: /);
    const { containerId } = await create(['vendor.com/double=alone'], { podSandboxId });
    await host.call(method.startContainer, { containerId });
    assert.equal(await shell(containerId, 'echo $ALONE'), '1\n');
    for (const name of ['double-1', 'double-2', 'broken', 'folder', 'later']) rmSync(join(low, `${name}.json`), { recursive: true });
    await remove(podSandboxId);
  });

  test('a failing hook fails the creation in its own words, poststop hooks follow, and the next attempt succeeds', async () => {
    const after = join(directory, 'after-failure');
    const fails = script('fails', `[ -e ${directory}/well ] || { echo "no firmware" >&2; exit 9; }`);
    const edits = {
      hooks: [
        { hookName: 'createRuntime', path: fails },
        { hookName: 'poststop', path: join(vendor, 'hook'), args: ['hook', after] },
      ],
    };
    write(join(high, 'failing.json'), 'vendor.com/failing', { a: edits });
    const { podSandboxId } = await host.call(method.runPodSandbox, { config: host.podConfig() });
    await assert.rejects(create(['vendor.com/failing=a'], { podSandboxId }), (error: { readonly code?: number; readonly details?: string }) => {
      assert.deepEqual(
        [error.code, error.details?.endsWith(`: /hooks/createRuntime/0: run the hook ${fails}: exit code 9: no firmware`)],
        [status.FAILED_PRECONDITION, true],
        error.details ?? '',
      );
      return true;
    });
    assert.deepEqual((await host.call(method.listContainers, {})).containers, []);
    assert.equal(readFileSync(after, 'utf8').trim().split('\n').length, 2);
    writeFileSync(join(directory, 'well'), '');
    const { containerId } = await create(['vendor.com/failing=a'], { podSandboxId, attempt: 1 });
    await host.call(method.startContainer, { containerId });
    await remove(podSandboxId);
    assert.equal(readFileSync(after, 'utf8').trim().split('\n').length, 4, 'removal of the pod passed the hooks of poststop over');
    assert.deepEqual(globSync(`${host.host.root}/containers/*/*/bundle`), []);
  });

  test('failing hooks of startContainer and poststart end the start and the container; failing hooks of poststop are told and undo nothing', async () => {
    script('refuse', 'echo "not today" >&2; exit 4');
    const told = script('told', 'echo "after the fact" >&2; exit 5');
    const seen = join(directory, 'seen-after-told');
    const mounts = [{ hostPath: vendor, containerPath: '/vendor' }];
    write(join(high, 'start.json'), 'vendor.com/start', {
      refuse: { mounts, hooks: [{ hookName: 'startContainer', path: '/vendor/refuse' }] },
      told: {
        hooks: ['poststart', 'poststop'].flatMap((hookName) => [
          { hookName, path: told },
          { hookName, path: join(vendor, 'hook'), args: ['hook', seen, hookName] },
        ]),
      },
    });
    const refused = await create(['vendor.com/start=refuse']);
    await assert.rejects(
      host.call(method.startContainer, { containerId: refused.containerId }),
      /\/hooks\/startContainer\/0: run the hook \/vendor\/refuse: exit code 4: not today/,
    );
    const { status: ended } = await host.call(method.containerStatus, { containerId: refused.containerId });
    assert.equal(ended?.state, ContainerState.CONTAINER_EXITED);
    await remove(refused.podSandboxId);

    const { podSandboxId, containerId } = await create(['vendor.com/start=told']);
    await assert.rejects(
      host.call(method.startContainer, { containerId }),
      /run the poststart hooks of container .*: \/hooks\/poststart\/0: run the hook \S+: exit code 5: after the fact/,
    );
    const { status: failed } = await host.call(method.containerStatus, { containerId });
    assert.deepEqual([failed?.state, failed?.reason], [ContainerState.CONTAINER_EXITED, 'StartError']);
    await host.call(method.removeContainer, { containerId });
    assert.deepEqual(
      readFileSync(seen, 'utf8')
        .split('\n')
        .filter((line) => line.startsWith(seen)),
      [`${seen} poststop`],
    );
    await remove(podSandboxId);
  });

  test('a container can be stopped while a poststart hook hangs', async () => {
    const begun = join(directory, 'begun-poststart');
    const hangs = script('hangs-after', `echo $$ > ${begun}; exec ${busybox} sleep 5000`);
    write(join(high, 'hanging-after.json'), 'vendor.com/late', { a: { hooks: [{ hookName: 'poststart', path: hangs, timeout: 600 }] } });
    const { podSandboxId, containerId } = await create(['vendor.com/late=a']);
    const start = host.call(method.startContainer, { containerId });
    await until('the beginning of the hook', () => existsSync(begun) && readFileSync(begun, 'utf8') !== '');
    await host.call(method.stopContainer, { containerId, timeout: 0n });
    await start;
    assert.equal((await host.call(method.containerStatus, { containerId })).status?.state, ContainerState.CONTAINER_EXITED);
    await remove(podSandboxId);
    await until('the end of the hook', () => !existsSync(`/proc/${readFileSync(begun, 'utf8').trim()}`));
  });

  test('a daemon that dies in a hook leaves neither the hook nor the container, and the hooks of poststop run in the next one', async () => {
    const [begun, after] = [join(directory, 'begun'), join(directory, 'after-death')];
    const hangs = script('hangs', `echo $$ > ${begun}; exec ${busybox} sleep 5000`);
    write(join(high, 'hanging.json'), 'vendor.com/hanging', {
      a: {
        hooks: [
          { hookName: 'createRuntime', path: hangs },
          { hookName: 'poststop', path: join(vendor, 'hook'), args: ['hook', after] },
        ],
      },
    });
    const { podSandboxId } = await host.call(method.runPodSandbox, { config: host.podConfig() });
    const creation = assert.rejects(create(['vendor.com/hanging=a'], { podSandboxId }));
    await until('the beginning of the hook', () => existsSync(begun) && readFileSync(begun, 'utf8') !== '');
    const hookPid = readFileSync(begun, 'utf8').trim();
    // Nobody waits for the hook: other calls are answered.
    assert.equal((await host.call(method.listPodSandbox, {})).items.length, 1);
    await host.restart('SIGKILL');
    await creation;
    await until('the end of the hook', () => !existsSync(`/proc/${hookPid}`));
    await until('the hooks of poststop', () => existsSync(after));
    assert.deepEqual((await host.call(method.listContainers, {})).containers, []);
    await remove(podSandboxId);
  });

  /** The shim, not a child of its that still has its command line. */
  const killShim = (podSandboxId: string): void => {
    const named = readdirSync('/proc').filter((name) => {
      try {
        return /^\d+$/.test(name) && readFileSync(`/proc/${name}/cmdline`, 'utf8').includes(`shim\0${podSandboxId}`);
      } catch {
        return false;
      }
    });
    const [shim, ...more] = named.filter((name) => !named.includes(/^PPid:\t(\d+)$/m.exec(readFileSync(`/proc/${name}/status`, 'utf8'))?.[1] ?? ''));
    assert.ok(shim !== undefined && more.length === 0);
    process.kill(Number(shim), 'SIGKILL');
  };

  test('where the shim is gone, the hooks of poststop run without it', async () => {
    const after = join(directory, 'after-shim');
    write(join(high, 'orphan.json'), 'vendor.com/orphan', { a: { hooks: [{ hookName: 'poststop', path: join(vendor, 'hook'), args: ['hook', after] }] } });
    const { podSandboxId, containerId } = await create(['vendor.com/orphan=a']);
    await host.call(method.startContainer, { containerId });
    killShim(podSandboxId);
    await host.ended(containerId);
    assert.equal(existsSync(after), false);
    await host.call(method.removeContainer, { containerId });
    assert.equal(readFileSync(after, 'utf8').trim().split('\n').length, 2);
    await remove(podSandboxId);
    assert.equal(readFileSync(after, 'utf8').trim().split('\n').length, 2);
  });

  test('where the shim is killed in a hook of poststop, the next attempt runs them all', async () => {
    const [begun, after, well] = [join(directory, 'begun-poststop'), join(directory, 'after-poststop'), join(directory, 'well-again')];
    const hangs = script('hangs-last', `[ -e ${well} ] || { echo $$ > ${begun}; exec ${busybox} sleep 5000; }`);
    const hooks = [
      { hookName: 'poststop', path: hangs },
      { hookName: 'poststop', path: join(vendor, 'hook'), args: ['hook', after] },
    ];
    write(join(high, 'last.json'), 'vendor.com/last', { a: { hooks } });
    const { podSandboxId, containerId } = await create(['vendor.com/last=a']);
    const removal = assert.rejects(host.call(method.removeContainer, { containerId }), /UNAVAILABLE: .*run the poststop hooks of container/);
    await until('the beginning of the hook', () => existsSync(begun) && readFileSync(begun, 'utf8') !== '');
    killShim(podSandboxId);
    await removal;
    assert.equal(existsSync(after), false);
    writeFileSync(well, '');
    await host.call(method.removeContainer, { containerId });
    assert.equal(readFileSync(after, 'utf8').trim().split('\n').length, 2);
    await remove(podSandboxId);
  });
});
