/**
 * Roots made by a stranger: links, files and devices in the places where the runtime mounts, masks, makes and reads. Whatever they are,
 * the container runs inside its root or fails with one clear error, and the host's files are as they were.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, afterEach, before, describe, it } from 'node:test';
import { errorMessage } from '#core';
import { probePath, probeSkip, slowness } from './hostile-probe.ts';
import { type RuntimeHost, type SpecParts, type TestPod, makeSpec, skipReason, startRuntimeHost, writeRoot } from './runtime-host.ts';

const skip = skipReason() === false ? probeSkip : skipReason();
const sh = (script: string): readonly string[] => ['/bin/sh', '-c', script];

describe('a hostile root', { skip, timeout: 120_000 * slowness }, () => {
  let environment: RuntimeHost;
  let pod: TestPod;
  let victim: string;
  let count = 0;

  before(async () => {
    environment = await startRuntimeHost();
    pod = await environment.makePod();
    victim = join(environment.directory, 'victim');
    mkdirSync(victim);
    for (const name of ['hosts', 'file']) writeFileSync(join(victim, name), 'of the host\n');
    for (const name of ['hosts', 'resolv.conf', 'hostname']) writeFileSync(join(environment.directory, name), `${name} of the pod\n`);
  });
  after(async () => {
    await pod?.[Symbol.asyncDispose]();
    await environment?.[Symbol.asyncDispose]();
  });
  afterEach(() => {
    assert.deepEqual(readdirSync(victim).sort(), ['file', 'hosts']);
    for (const name of ['hosts', 'file']) assert.equal(readFileSync(join(victim, name), 'utf8'), 'of the host\n');
    assert.ok(!readFileSync('/proc/self/mountinfo', 'utf8').includes(victim), 'a mount landed on the host');
    assert.deepEqual(readFileSync('/dev/null'), Buffer.alloc(0));
  });

  /** A root of its own with `spoil` applied. */
  function makeRoot(spoil: (root: string) => void): { readonly kind: 'directory'; readonly path: string } {
    const path = mkdtempSync(join(environment.directory, 'root-'));
    writeRoot(path);
    spoil(path);
    return { kind: 'directory', path };
  }

  const podFiles = (): readonly unknown[] =>
    ['hosts', 'resolv.conf', 'hostname'].map((name) => ({ destination: `/etc/${name}`, type: 'bind', source: join(environment.directory, name), options: ['rbind', 'rprivate'] }));

  /** What the container printed, or the one error. */
  async function outcome(spoil: (root: string) => void, parts: Partial<SpecParts> = {}): Promise<string> {
    count += 1;
    try {
      const spec = makeSpec(environment.host, {
        args: sh('echo ran; cat /etc/hosts; [ -c /dev/null ] && echo x > /dev/null; ls /only-here 2>/dev/null'),
        mounts: podFiles(),
        ...parts,
      });
      return (await pod.run(`r${count}`, spec, { rootfs: makeRoot(spoil) })).output;
    } catch (error) {
      return `error: ${errorMessage(error)}`;
    }
  }

  const replace = (name: string, target: string) => (root: string) => {
    rmSync(join(root, name), { recursive: true, force: true });
    symlinkSync(target, join(root, name));
  };
  const asFile = (name: string) => (root: string) => {
    rmSync(join(root, name), { recursive: true, force: true });
    writeFileSync(join(root, name), 'a file\n');
  };

  for (const name of ['proc', 'sys']) {
    for (const target of ['/data', '../../../../../../../..', '/dev', 'self-loop']) {
      it(`whose /${name} is a link to ${target} is refused`, async () => {
        const text = await outcome(replace(name, target === 'self-loop' ? name : target));
        assert.match(text, new RegExp(`^error: .*/mounts/\\d+: attach the mount .* /${name}.*: ELOOP$`));
      });
    }
    it(`whose /${name} is a file is refused`, async () => {
      assert.match(await outcome(asFile(name)), new RegExp(`^error: .*/mounts/\\d+: attach the mount .* /${name}.*: ENOTDIR$`));
    });
  }

  it('whose /dev, /dev/pts, /dev/shm or /sys/fs leads to the host by links stays inside', async () => {
    for (const target of [() => victim, () => '/proc', () => '/proc/self/fd', () => '/proc/1/root', () => '../../../../../../..']) {
      const text = await outcome(replace('dev', target()));
      assert.match(text, /^(ran\nhosts of the pod\n|error: .*\/mounts\/\d+: attach the mount .*(EPERM|ELOOP|ENOENT|EBUSY|EINVAL))/, `/dev -> ${target()}`);
    }
    assert.match(await outcome(asFile('dev')), /^error: .*\/mounts\/1: attach the mount .* \/dev.*: ENOTDIR$/);
  });

  it('with a false /dev/null, /dev/pts or /dev/console below a /dev of its own gets the true ones', async () => {
    const text = await outcome((root) => {
      symlinkSync(join(victim, 'file'), join(root, 'dev/null'));
      symlinkSync(victim, join(root, 'dev/pts'));
      symlinkSync(join(victim, 'file'), join(root, 'dev/console'));
      symlinkSync(join(victim, 'file'), join(root, 'dev/tty'));
    });
    assert.match(text, /^ran\nhosts of the pod\n/);
  });

  it('whose /etc/hosts or /etc/resolv.conf is a link gets the mount inside the root, and none on procfs', async () => {
    for (const name of ['hosts', 'resolv.conf', 'hostname']) {
      for (const target of [join(victim, 'hosts'), '../../../../../../../etc/passwd', '/bin/new/one']) {
        assert.match(await outcome((root) => symlinkSync(target, join(root, 'etc', name))), name === 'hosts' ? /^ran\nhosts of the pod\n/ : /^ran\n/, `${name} -> ${target}`);
      }
      for (const target of ['/proc/self/attr/exec', '/proc/sys/kernel/core_pattern', '/proc/sysrq-trigger', '/proc/self/fd/0', '/proc/1/root/etc/passwd']) {
        assert.match(
          await outcome((root) => symlinkSync(target, join(root, 'etc', name))),
          /^error: .*\/mounts\/\d+: attach the mount .*: (EPERM|ELOOP|EACCES|ENOENT|EINVAL)$/,
          `${name} -> ${target}`,
        );
      }
      assert.match(await outcome((root) => mkdirSync(join(root, 'etc', name))), /^error: .*: EISDIR$/);
    }
  });

  it('cannot turn a volume into a cover for procfs', async () => {
    const volume = join(environment.directory, 'volume');
    mkdirSync(volume, { recursive: true });
    for (const target of ['/proc', '/proc/sys', '/proc/self/attr', '/proc/self']) {
      const text = await outcome((root) => symlinkSync(target, join(root, 'way')), { mounts: [{ destination: '/way', type: 'bind', source: volume, options: ['rbind'] }] });
      assert.match(text, /^error: .*\/mounts\/7: attach the mount .* \/way.*: EPERM$/, target);
    }
    assert.deepEqual(readdirSync(volume), []);
  });

  it('is masked where its masked paths are links, devices or files of its own', async () => {
    const text = await outcome(
      (root) => {
        symlinkSync('/proc/kcore', join(root, 'data/a'));
        symlinkSync(join(victim, 'file'), join(root, 'data/b'));
        execFileSync('mknod', [join(root, 'data/c'), 'c', '1', '5']);
        execFileSync('mkfifo', [join(root, 'data/d')]);
      },
      {
        args: sh('wc -c < /data/c; wc -c < /data/d; (echo 4 > /proc/sys/kernel/printk) 2>&1 | grep -o "Read-only.*"; ls /proc/acpi 2>/dev/null | wc -l'),
        linux: { maskedPaths: ['/data/a', '/data/b', '/data/c', '/data/d', '/proc/acpi', '/proc/kcore'] },
      },
    );
    assert.match(text, /^0\n0\nRead-only file system\n0\n$/);
  });

  it('with a working directory through descriptors, links and climbing never runs outside', async () => {
    for (const cwd of [
      '/proc/self/fd/3',
      '/proc/self/fd/5',
      '/proc/self/fd/17',
      '/proc/thread-self/fd/6',
      '/proc/1/cwd',
      '/proc/self/root/../..',
      '/way',
      '/loop',
      '/etc/passwd',
    ]) {
      const text = await outcome(
        (root) => {
          symlinkSync('/proc/self/fd/7', join(root, 'way'));
          symlinkSync('loop', join(root, 'loop'));
        },
        { args: sh(`pwd; ls -d ../../../../../..${victim} 2>/dev/null || echo inside`), process: { cwd } },
      );
      assert.match(text, /^(error: .*|\/[^\n]*\ninside\n)$/, cwd);
      assert.ok(!text.includes(environment.directory) || text.startsWith('error:'), text);
    }
  });

  it('whose program is a link to the host, a directory, a device or a FIFO gives one error', async () => {
    for (const [file, cause] of [
      ['/way', 'ENOENT'],
      ['/etc', 'EACCES'],
      ['/pipe', 'EACCES'],
      ['/node', 'EACCES'],
      ['/loop', 'ELOOP'],
      ['/text', 'EACCES'],
      ['/empty', 'ENOEXEC'],
    ] as const) {
      const text = await outcome(
        (root) => {
          symlinkSync(join(victim, 'file'), join(root, 'way'));
          symlinkSync('loop', join(root, 'loop'));
          execFileSync('mkfifo', ['-m', '777', join(root, 'pipe')]);
          execFileSync('mknod', ['-m', '777', join(root, 'node'), 'c', '1', '3']);
          writeFileSync(join(root, 'text'), 'x');
          writeFileSync(join(root, 'empty'), '');
          chmodSync(join(root, 'empty'), 0o755);
        },
        { args: [file] },
      );
      assert.match(text, new RegExp(`^error: .*/process/args: execute .*: ${cause}$`), file);
    }
  });

  it('cannot lead a mount out by exchanging a directory of a shared volume with a link', async () => {
    const volume = mkdtempSync(join(environment.directory, 'shared-'));
    mkdirSync(join(volume, 'a'));
    symlinkSync(victim, join(volume, 'b'));
    const shared = { destination: '/vol', type: 'bind', source: volume, options: ['rbind'] };
    const swapper = makeSpec(environment.host, {
      args: ['/probe', 'swap', '/vol', '6000'],
      mounts: [shared, { destination: '/probe', type: 'bind', source: probePath, options: ['bind', 'ro'] }],
    });
    await pod.start('swapper', swapper, { rootfs: makeRoot(() => undefined) });
    const rootfs = makeRoot(() => undefined);
    const words = new Map<string, number>();
    const end = performance.now() + 5000;
    for (let round = 0; performance.now() < end && round < 300; round += 1) {
      const mounts = [
        shared,
        { destination: '/vol/a/in', type: 'tmpfs', source: 'tmpfs', options: [] },
        { destination: '/vol/a/hosts', type: 'bind', source: join(environment.directory, 'hosts'), options: ['bind'] },
      ];
      const spec = makeSpec(environment.host, {
        args: sh('cat /vol/a/file /vol/b/file 2>/dev/null; cat /proc/self/mountinfo | grep -c " /vol/.*in "'),
        mounts,
        process: { cwd: '/vol/a/deep/er' },
      });
      const { output } = await pod.run(`s${round}`, spec, { rootfs }).catch((error: unknown) => ({ output: `error: ${errorMessage(error).replace(/s\d+/, 's')}` }));
      assert.ok(!output.includes('of the host'), output);
      words.set(output.startsWith('error') ? 'refused' : 'ran', (words.get(output.startsWith('error') ? 'refused' : 'ran') ?? 0) + 1);
      assert.deepEqual(readdirSync(victim).sort(), ['file', 'hosts'], `round ${round}`);
    }
    assert.ok((words.get('ran') ?? 0) > 10, `too few ran: ${JSON.stringify([...words])}`);
    await pod.shim.signalProcess('swapper', 9);
    assert.ok(!existsSync(join(victim, 'in')));
  });
});
