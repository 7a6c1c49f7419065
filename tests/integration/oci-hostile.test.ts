/**
 * Hostile bundles and hostile containers through the command line of the OCI runtime: each class of docs/hostile.md that concerns a runtime. Whatever they are,
 * the container runs inside its root or one clear error comes out, the host's files are as they were, and nothing is left.
 */
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { chmodSync, chownSync, copyFileSync, existsSync, mkdirSync, readFileSync, readdirSync, renameSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, afterEach, before, describe, test } from 'node:test';
import { defaultCapabilities } from '#runtime';
import { probePath, probeSkip } from './hostile-probe.ts';
import { OciHost, type OciDocument, type OciResult, patienceMs, runtimePrograms, skipReason, slowness } from './oci-host.ts';

const skip = skipReason() === false ? probeSkip : skipReason();
const sh = (script: string): readonly string[] => ['/bin/sh', '-c', script];

describe('through the OCI command line', { skip, timeout: 120_000 * slowness }, () => {
  const host = new OciHost();
  const victim = join(host.directory, 'victim');
  const hashOf = (path: string): string => createHash('sha256').update(readFileSync(path)).digest('hex');
  const program = hashOf(runtimePrograms.berth);
  /** Every command is a process; an emulated machine tries fewer of them. */
  const lastDescriptor = slowness === 1 ? 16 : 9;
  const idCommands = slowness === 1 ? ['state', 'start', 'kill', 'delete', 'pause'] : ['delete'];

  before(() => {
    mkdirSync(victim);
    writeFileSync(join(victim, 'file'), 'of the host\n');
  });
  after(async () => host[Symbol.asyncDispose]());
  afterEach(async () => {
    const left = existsSync(host.stateRoot) ? readdirSync(host.stateRoot) : [];
    for (const id of left) await host.call(['delete', '--force', id]);
    assert.deepEqual(left, [], 'containers that are left');
    assert.deepEqual(readdirSync(victim), ['file']);
    assert.equal(readFileSync(join(victim, 'file'), 'utf8'), 'of the host\n');
    assert.ok(!readFileSync('/proc/self/mountinfo', 'utf8').includes(victim), 'a mount landed on the host');
    assert.equal(hashOf(runtimePrograms.berth), program, 'the runtime itself was altered');
    assert.deepEqual(host.listCgroups(), []);
  });

  const text = ({ stdout, stderr }: OciResult): string => stderr + stdout;
  /** Runs a bundle whose root was spoiled. */
  async function outcome(args: readonly string[], spoil: (rootfs: string) => void, change?: (document: OciDocument) => void): Promise<OciResult> {
    const bundle = host.makeBundle(args, change);
    spoil(join(bundle, 'rootfs'));
    return host.call(['run', '--bundle', bundle, host.newId()]);
  }
  const asLink = (name: string, target: string) => (rootfs: string) => {
    rmSync(join(rootfs, name), { recursive: true, force: true });
    symlinkSync(target, join(rootfs, name));
  };
  const without =
    (...destinations: readonly string[]) =>
    (document: OciDocument) => {
      document.mounts = document.mounts.filter(({ destination }) => !destinations.some((path) => destination === path || destination.startsWith(`${path}/`)));
    };

  test('the payload has the descriptors 0, 1 and 2 and those that were passed, whichever way it came to run', async () => {
    const list = sh('cd /proc/self/fd && echo *');
    // `*` is read through one descriptor more, which is the shell's own.
    const seen = (output: string): readonly string[] => output.trim().split(' ').slice(0, -1);
    const ran = await host.run(list);
    assert.equal(ran.status, 0, text(ran));
    assert.deepEqual(seen(ran.stdout), ['0', '1', '2']);
    const id = await host.start(sh('cd /proc/self/fd && echo *; sleep 1000'));
    await host.until(() => host.outputOf(id).includes('\n'), 'the container says what it has');
    assert.deepEqual(seen(host.outputOf(id)), ['0', '1', '2']);
    assert.deepEqual(seen(await host.ok(['exec', id, ...list])), ['0', '1', '2']);
    await host.ok(['delete', '--force', id]);
    // With descriptors of the caller that nobody asked to pass on.
    const bundle = host.makeBundle(list);
    const call = (options: string): string =>
      `${runtimePrograms.berth} --root ${host.stateRoot} run ${options} --bundle ${bundle} ${host.newId()} 3</etc/passwd 4</etc/group 7</etc/hosts`;
    const environment = { PATH: process.env['PATH'], BERTH_OCI_ENGINE: 'none' };
    assert.deepEqual(seen(execFileSync('/bin/sh', ['-c', call('')], { env: environment, encoding: 'utf8' })), ['0', '1', '2']);
    assert.deepEqual(seen(execFileSync('/bin/sh', ['-c', call('--preserve-fds 2')], { env: environment, encoding: 'utf8' })), ['0', '1', '2', '3', '4']);
  });

  test('a working directory that is a descriptor of the host leads nowhere, nor does that of an exec', async () => {
    const id = await host.start(['sleep', '1000']);
    for (let descriptor = 3; descriptor < lastDescriptor; descriptor += 1) {
      const cwd = `/proc/self/fd/${descriptor}`;
      for (const result of [
        await host.run(['/bin/pwd'], (document) => void (document.process.cwd = cwd)),
        await outcome(['/bin/pwd'], asLink('way', cwd), (document) => void (document.process.cwd = '/way')),
        await host.call(['exec', '--cwd', cwd, id, '/bin/pwd']),
      ]) {
        assert.notEqual(result.status, 0, text(result));
        assert.equal(result.stdout, '');
        assert.match(result.stderr, /cwd|working directory|\/proc\/self\/fd/);
      }
    }
    await host.ok(['delete', '--force', id]);
  });

  test('the runtime’s executable can be opened by a container that makes us execute it, and cannot be changed', async () => {
    for (const capabilities of [defaultCapabilities, [...defaultCapabilities, 'CAP_SYS_PTRACE']]) {
      const bundle = host.makeBundle(['/bin/probe', 'spy', join(victim, 'file'), '0', randomBytes(32).toString('hex'), String(1000 * slowness)], (document) => {
        document.process['capabilities'] = { bounding: capabilities, effective: capabilities, permitted: capabilities };
      });
      copyFileSync(probePath, join(bundle, 'rootfs/bin/probe'));
      writeFileSync(join(bundle, 'rootfs/bin/trap'), '#!/proc/self/exe\n', { mode: 0o755 });
      const id = await host.create(bundle);
      await host.ok(['start', id]);
      for (let round = 0; (await host.state(id)).status === 'running'; round += 1) await host.call(['exec', id, round % 2 === 0 ? '/bin/trap' : '/bin/true']);
      const lines = host.outputOf(id).split('\n');
      assert.ok(
        lines.some((line) => /^(SEEN|LOOKED|EXECUTABLES) [1-9]/.test(line)),
        `nothing of ours was seen: ${lines.join('; ')}`,
      );
      // Before Linux 6.3 the mode of the executable cannot be sealed; nothing of ours is executed from it afterwards. The streams of an exec are its own.
      const findings = lines.filter((line) => line !== '' && !/^(SEEN|READ |LOOKED|EXECUTABLES|READY|MODE$)/.test(line) && !/^HOLDS \S+ \d+ \S+\/(out|err)\d+$/.test(line));
      assert.deepEqual([...new Set(findings)], []);
      await host.ok(['delete', id]);
    }
  });

  test('links in place of /proc and /sys are refused with the place of the mount', async () => {
    for (const name of ['proc', 'sys']) {
      for (const target of ['/data', '../../../../../..', victim]) {
        const result = await outcome(['true'], (rootfs) => {
          mkdirSync(join(rootfs, 'data'), { recursive: true });
          asLink(name, target)(rootfs);
        });
        assert.equal(result.status, 1, text(result));
        assert.match(result.stderr, /\/mounts\/\d+|mounts\[\d+\]/);
      }
    }
  });

  test('mount targets and /dev that are links to the host stay inside the root', async () => {
    const volume = { destination: '/volume', type: 'bind', source: '/etc', options: ['rbind', 'ro'] };
    for (const [name, spoil, change] of [
      ['volume', asLink('volume', victim), (document: OciDocument) => void document.mounts.push(volume)],
      ['dev', asLink('dev', victim), undefined],
      ['dev without a mount', asLink('dev', victim), without('/dev')],
      ['a climbing link', asLink('volume', `../../../../../..${victim}`), (document: OciDocument) => void document.mounts.push(volume)],
    ] as const) {
      const result = await outcome(sh('echo x > /dev/null; echo ran'), spoil, change);
      assert.ok(result.status === 0 ? result.stdout === 'ran\n' : result.stderr !== '', `${name}: ${text(result)}`);
    }
  });

  test('masked and read-only paths that are links, and a false /dev/null, cover nothing of the host and uncover nothing', async () => {
    const secret = await outcome(
      sh('cat /secret 2>&1; ls /hidden 2>&1; echo ran'),
      (rootfs) => {
        writeFileSync(join(rootfs, 'real'), 'uncovered\n');
        mkdirSync(join(rootfs, 'dir'));
        writeFileSync(join(rootfs, 'dir/uncovered'), '');
        symlinkSync('/real', join(rootfs, 'secret'));
        symlinkSync('/dir', join(rootfs, 'hidden'));
      },
      (document) => void (document.linux['maskedPaths'] = ['/secret', '/hidden']),
    );
    assert.ok(!secret.stdout.includes('uncovered'), text(secret));
    for (const target of [join(victim, 'file'), '/proc/1/environ']) {
      const result = await outcome(
        sh('cat /secret; echo ran'),
        (rootfs) => {
          writeFileSync(join(rootfs, 'secret'), 'uncovered\n');
          mkdirSync(join(rootfs, 'dev'), { recursive: true });
          asLink('dev/null', target)(rootfs);
        },
        (document) => {
          without('/dev')(document);
          document.linux['maskedPaths'] = ['/secret'];
        },
      );
      assert.ok(!result.stdout.includes('uncovered') && !result.stdout.includes('of the host'), text(result));
    }
  });

  test('a directory of a volume that is exchanged with a link while containers are made leads no mount out', async () => {
    const bundle = host.makeBundle(['true'], (document) => {
      document.mounts.push({ destination: '/shared', type: 'bind', source: join(host.directory, 'shared'), options: ['rbind', 'rw'] });
      document.mounts.push({ destination: '/shared/a/inner', type: 'tmpfs', source: 'tmpfs', options: [] });
    });
    const shared = join(host.directory, 'shared');
    mkdirSync(join(shared, 'a'), { recursive: true });
    symlinkSync(victim, join(shared, 'b'));
    const swapper = spawn(probePath, ['swap', shared, String(1000 * slowness)], { stdio: 'ignore' });
    const over = new Promise((resolve) => swapper.once('exit', resolve));
    let isOver = false;
    void over.then(() => (isOver = true));
    for (let round = 0; !isOver; round += 1) {
      const result = await host.call(['run', '--bundle', bundle, host.newId()]);
      assert.ok(result.status === 0 || result.stderr !== '', text(result));
      assert.equal(existsSync(join(victim, 'inner')), false);
    }
    await over;
    rmSync(shared, { recursive: true });
  });

  test('kernel parameters reach the container’s own namespaces or nothing', async () => {
    const before = readFileSync('/proc/sys/kernel/core_pattern', 'utf8');
    for (const [key, value] of [
      ['kernel.core_pattern', '|/bin/evil'],
      ['net/../kernel/core_pattern', '|/bin/evil'],
      ['net.ipv4.ip_forward', '1\nkernel.core_pattern=|/bin/evil'],
      ['../../sysrq-trigger', 'b'],
      ['net.ipv4.ip_forward+kernel.core_pattern', 'x'],
      ['', 'x'],
    ] as const) {
      const result = await host.run(['true'], (document) => void (document.linux['sysctl'] = { [key]: value }));
      assert.equal(result.status, 1, `${key}: ${text(result)}`);
      assert.match(result.stderr, /linux\.?\/?sysctl/, key);
    }
    assert.equal(readFileSync('/proc/sys/kernel/core_pattern', 'utf8'), before);
  });

  test('ids, users and names that overflow, climb or are of another kind are refused with their place', async () => {
    for (const [user, place] of [
      [{ uid: -1, gid: 0 }, 'process.user.uid'],
      [{ uid: 4294967296, gid: 0 }, 'process.user.uid'],
      [{ uid: '0', gid: 0 }, 'process.user.uid'],
      [{ uid: 0, gid: 1.5 }, 'process.user.gid'],
      [{ uid: 0, gid: 0, additionalGids: [4294967296] }, 'process.user.additionalGids[0]'],
    ] as const) {
      const result = await host.run(['id'], (document) => void (document.process['user'] = user));
      assert.equal(result.status, 1);
      assert.ok(result.stderr.includes(place), text(result));
    }
    const bundle = host.makeBundle(['true']);
    for (const id of ['../x', 'a/b', '', '.', '..', 'a b', 'a\nb', 'x'.repeat(2000), 'é']) {
      const result = await host.call(['run', '--bundle', bundle, '--', id]);
      assert.notEqual(result.status, 0, `${id}: ${text(result)}`);
      for (const command of idCommands) assert.notEqual((await host.call([command, '--', id])).status, 0, `${command} ${id}`);
    }
    assert.deepEqual(readdirSync(host.directory).includes('x'), false);
  });

  test('an identity that is mapped to nobody, the overflow id and a numeric name stay what they are', async () => {
    const result = await host.run(sh('id -u; id -g'), (document) => void (document.process['user'] = { uid: 4294967294, gid: 4294967294 }));
    assert.deepEqual(result.stdout.trim().split('\n'), ['4294967294', '4294967294'], text(result));
    const none = await host.run(['id'], (document) => void (document.process['user'] = { uid: 4294967295, gid: 0 }));
    assert.notEqual(none.status, 0, 'the number that means "no change" became root');
  });

  test('inheritable and ambient capabilities are empty unless asked for, in an exec too', async () => {
    const show = sh('grep -E "Cap(Inh|Amb)" /proc/self/status');
    const expected = 'CapInh:\t0000000000000000\nCapAmb:\t0000000000000000\n';
    assert.equal((await host.run(show)).stdout, expected);
    const id = await host.start(['sleep', '1000']);
    assert.equal(await host.ok(['exec', id, ...show]), expected);
    assert.match(await host.ok(['exec', '--cap', 'CAP_NET_RAW', id, 'grep', 'CapInh', '/proc/self/status']), /CapInh:\t0000000000000000/);
    await host.ok(['delete', '--force', id]);
  });

  test('a passwd file that is a FIFO, a device, a link to the host or a gigabyte holds nobody up and says nothing of the host', async () => {
    const withoutHome = (document: OciDocument): void => void (document.process.env = ['PATH=/bin']);
    for (const spoil of [
      (path: string): void => void execFileSync('mkfifo', [path]),
      (path: string): void => void execFileSync('mknod', [path, 'c', '1', '5']),
      (path: string): void => symlinkSync(join(victim, 'file'), path),
      (path: string): void => void execFileSync('truncate', ['-s', '1G', path]),
      (path: string): void => mkdirSync(path),
      (path: string): void => writeFileSync(path, `root:x:0:0::${'/x'.repeat(4096)}:\n\u0000:\n`),
    ]) {
      const result = await outcome(
        sh('echo "$HOME"'),
        (rootfs) => {
          mkdirSync(join(rootfs, 'etc'), { recursive: true });
          rmSync(join(rootfs, 'etc/passwd'), { force: true });
          spoil(join(rootfs, 'etc/passwd'));
        },
        withoutHome,
      );
      assert.ok(result.status === 0 ? result.stdout.startsWith('/') : result.stderr !== '', text(result));
      assert.ok(!text(result).includes('of the host'));
    }
  });

  test('a config.json that is a FIFO, a device, endless, no JSON, too deep or full of controls ends in one line', async () => {
    const bundle = host.makeBundle(['true']);
    const path = join(bundle, 'config.json');
    const good = readFileSync(path, 'utf8');
    for (const spoil of [
      () => void execFileSync('mkfifo', [path]),
      () => void execFileSync('mknod', [path, 'c', '1', '5']),
      () => void execFileSync('truncate', ['-s', '2G', path]),
      () => mkdirSync(path),
      () => writeFileSync(path, good.slice(0, -20)),
      () => writeFileSync(path, '['.repeat(200_000)),
      () => writeFileSync(path, '\u001b[2J\nlevel=error msg="forged"'),
      () => writeFileSync(path, JSON.stringify({ ...JSON.parse(good), process: { ...JSON.parse(good).process, cwd: 'x\u001b[2J\nforged' } })),
      () => writeFileSync(path, ''),
    ]) {
      rmSync(path, { recursive: true, force: true });
      spoil();
      const result = await host.call(['run', '--bundle', bundle, host.newId()]);
      assert.equal(result.status, 1, text(result));
      assert.ok(/^[\x20-\x7e]+\n$/.test(result.stderr) || result.stderr.split('\n').every((line) => /^[\x20-\x7e]*$/.test(line)), JSON.stringify(result.stderr));
      assert.ok(result.stderr.length < 2000 && !/^forged|^level=error msg="forged"/m.test(result.stderr), result.stderr);
    }
  });

  test('state directories are root’s alone, and what somebody else made there is not believed', async () => {
    const id = await host.create(host.makeBundle(['sleep', '1000']));
    const directory = join(host.stateRoot, id);
    assert.equal(statSync(host.stateRoot).mode & 0o777, 0o700);
    assert.equal(statSync(directory).mode & 0o777, 0o700);
    for (const name of readdirSync(directory)) assert.equal(statSync(join(directory, name)).mode & 0o077, 0, name);
    // A front file of another user, with the plans of a stranger, is not executed.
    const front = join(directory, 'front');
    const copy = readFileSync(front);
    for (const [uid, mode] of [
      [1000, 0o600],
      [0, 0o666],
    ] as const) {
      writeFileSync(`${front}.mine`, copy);
      chmodSync(`${front}.mine`, mode);
      chownSync(`${front}.mine`, uid, 0);
      renameSync(`${front}.mine`, front);
      const { status, stdout } = await host.call(['state', id]);
      assert.ok(status === 0 ? stdout.includes('"created"') : stdout === '', 'the compiler answers by its own record');
    }
    // Cut, garbled and empty ones are no more than a way to the compiler.
    for (const data of [copy.subarray(0, 20), copy.subarray(0, copy.length - 1), Buffer.alloc(0), Buffer.from(copy.map((byte, at) => (at > 8 ? byte ^ 0xa5 : byte)))]) {
      rmSync(front);
      writeFileSync(front, data, { mode: 0o600 });
      assert.equal((await host.state(id)).status, 'created');
    }
    await host.ok(['delete', '--force', id]);
  });

  test('a container that forks without end is ended by delete, which leaves nothing of it', async () => {
    const id = await host.start(
      // A shell that cannot fork ends, and with it the bomb in a while; what sleeps stays.
      sh('i=0; while [ $i -lt 100 ]; do sleep 1000 & i=$((i + 1)); done; bomb() { bomb & bomb & }; trap "" TERM; bomb & exec sleep 1000'),
      (document) => void (document.linux.resources = { pids: { limit: 200 } }),
    );
    await host.until(async () => (await host.call(['ps', '--format', 'json', id])).stdout.split(',').length > 50, 'it has forked');
    await host.ok(['kill', id, 'KILL']);
    await host.ok(['delete', '--force', id]);
  });

  test('hooks that print without end, hang or turn into daemons are bounded', async () => {
    const call = async (script: string, timeout?: number): Promise<OciResult> =>
      host.run(['true'], (document) => void (document.hooks = { createRuntime: [{ path: '/bin/sh', args: ['sh', '-c', script], ...(timeout === undefined ? {} : { timeout }) }] }));
    const loud = await call('head -c 50000000 /dev/zero | tr "\\0" x; exit 3');
    assert.equal(loud.status, 1);
    assert.ok(loud.stderr.length < 20_000, `${loud.stderr.length} bytes`);
    const stuck = await call('sleep 1000', 1);
    assert.equal(stuck.status, 1);
    assert.match(stuck.stderr, /\/hooks\/createRuntime\/0|hooks\.createRuntime\[0\]/);
    assert.ok(patienceMs > 0);
  });
});
