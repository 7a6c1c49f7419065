/**
 * The interpreter's cgroup steps against the kernel, on every cgroup version that this machine mounts: kill, remove, device
 * filter. Makes cgroups of its own names and removes them.
 */
import assert from 'node:assert/strict';
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Step } from '#plan';
import { type Outcome, makeScratch, removeScratch, runPlan, skip } from './native-driver.ts';

after(removeScratch);

const mounts = [...readFileSync('/proc/self/mounts', 'utf8').matchAll(/^\S+ (\S+) (cgroup2?) (\S+)/gm)].map(([, path = '', type = '', options = '']) => ({ path, type, options }));
const hierarchies = mounts.filter(({ type, options }) => type === 'cgroup2' || options.split(',').includes('freezer'));
const unified = mounts.find(({ type }) => type === 'cgroup2');
const name = `berth-native-test-${process.pid}`;
const runHost = (...steps: Step[]): Outcome => runPlan({ sections: [{ actor: 'host', steps }] });

/** A process that has moved itself into the cgroup before this returns. */
async function spawnInside(cgroup: string): Promise<{ readonly ended: Promise<NodeJS.Signals | null> }> {
  const child = spawn('sh', ['-c', `echo 0 > ${cgroup}/cgroup.procs && echo in && exec sleep 60`], { stdio: ['ignore', 'pipe', 'inherit'] });
  const ended = new Promise<NodeJS.Signals | null>((resolve) => child.once('exit', (_code, signal) => resolve(signal)));
  await new Promise((resolve) => child.stdout.once('data', resolve));
  return { ended };
}

for (const { path, type } of hierarchies) {
  describe(`${type} at ${path}`, { skip }, () => {
    const cgroup = join(path, name);

    it('kills every process below a cgroup, frozen ones too, and removes the tree', async () => {
      mkdirSync(join(cgroup, 'inner/leaf'), { recursive: true });
      const first = await spawnInside(join(cgroup, 'inner/leaf'));
      const second = await spawnInside(join(cgroup, 'inner'));
      if (existsSync(join(cgroup, 'inner/freezer.state'))) writeFileSync(join(cgroup, 'inner/freezer.state'), 'FROZEN');
      assert.match(runHost({ kind: 'removeCgroup', cgroup, timeoutMs: 20 }).output, /^failed 0 0 16 /, 'a cgroup with processes stays');
      assert.equal(runHost({ kind: 'killCgroup', cgroup, timeoutMs: 5000 }, { kind: 'removeCgroup', cgroup, timeoutMs: 5000 }).output, '');
      assert.deepEqual(await Promise.all([first.ended, second.ended]), ['SIGKILL', 'SIGKILL']);
      assert.ok(!existsSync(cgroup));
    });

    it('freezes what runs below a cgroup until it is thawed, and tells when it cannot', async () => {
      mkdirSync(join(cgroup, 'inner'), { recursive: true });
      const process = await spawnInside(join(cgroup, 'inner'));
      const state = (): string => readFileSync(join(cgroup, type === 'cgroup2' ? 'cgroup.freeze' : 'freezer.state'), 'utf8').trim();
      const freeze: Step = { kind: 'freezeCgroup', cgroup, frozen: 1, timeoutMs: 20_000 };
      for (let round = 0; round < 2; round += 1) {
        assert.equal(runHost(freeze).output, '');
        assert.equal(state(), type === 'cgroup2' ? '1' : 'FROZEN');
        if (type === 'cgroup2') assert.match(readFileSync(join(cgroup, 'inner/cgroup.events'), 'utf8'), /^frozen 1$/m);
        else assert.equal(readFileSync(join(cgroup, 'inner/freezer.state'), 'utf8').trim(), 'FROZEN');
        assert.equal(runHost({ ...freeze, frozen: 0 }).output, '');
        assert.equal(state(), type === 'cgroup2' ? '0' : 'THAWED');
      }
      assert.equal(runHost({ kind: 'killCgroup', cgroup, timeoutMs: 20_000 }, { kind: 'removeCgroup', cgroup, timeoutMs: 20_000 }).output, '');
      assert.equal(await process.ended, 'SIGKILL');
      assert.match(runHost(freeze).output, /^failed 0 0 2 /, 'a cgroup that is not there cannot be frozen');
      assert.match(runHost({ ...freeze, cgroup: '/proc/self' }).output, /^failed 0 0 22 /, 'a directory that is no cgroup');
    });

    if (type === 'cgroup2')
      it('thaws everything again where a process does not stop in time', async () => {
        mkdirSync(cgroup);
        // A file system that nobody serves: who looks into it waits, and only killing ends that.
        const directory = makeScratch();
        const server = openSync('/dev/fuse', 'r+');
        execFileSync('mount', ['-i', '-t', 'fuse', '-o', 'fd=3,rootmode=40000,user_id=0,group_id=0', 'nobody', directory], { stdio: ['ignore', 'inherit', 'inherit', server] });
        try {
          const waiting = spawn('sh', ['-c', `echo 0 > ${cgroup}/cgroup.procs; exec stat ${directory}/x`], { stdio: 'ignore' });
          const ended = new Promise((resolve) => waiting.once('exit', (_code, signal) => resolve(signal)));
          while (!/^\d+ \(stat\) D /.test(readFileSync(`/proc/${waiting.pid}/stat`, 'utf8'))) await sleep(20);
          assert.match(runHost({ kind: 'freezeCgroup', cgroup, frozen: 1, timeoutMs: 200 }).output, /^failed 0 0 110 /);
          assert.equal(readFileSync(join(cgroup, 'cgroup.freeze'), 'utf8'), '0\n');
          assert.equal(runHost({ kind: 'killCgroup', cgroup, timeoutMs: 20_000 }, { kind: 'removeCgroup', cgroup, timeoutMs: 20_000 }).output, '');
          assert.equal(await ended, 'SIGKILL');
        } finally {
          execFileSync('umount', ['-l', directory]);
          closeSync(server);
        }
      });

    it('takes a missing cgroup for done', () => {
      assert.equal(runHost({ kind: 'killCgroup', cgroup, timeoutMs: 0 }, { kind: 'removeCgroup', cgroup, timeoutMs: 0 }).output, '');
    });
  });
}

describe('a directory that is no cgroup', { skip }, () => {
  it('is neither killed nor removed', () => {
    const directory = makeScratch();
    writeFileSync(join(directory, 'cgroup.procs'), `${process.pid}\n`);
    assert.match(runHost({ kind: 'killCgroup', cgroup: directory, timeoutMs: 0 }).output, /^failed 0 0 22 /);
    assert.match(runHost({ kind: 'removeCgroup', cgroup: directory, timeoutMs: 0 }).output, /^failed 0 0 22 /);
    assert.ok(existsSync(join(directory, 'cgroup.procs')));
  });
});

describe('the device filter', { skip: skip !== false ? skip : unified === undefined ? 'needs a cgroup2 mount' : false }, () => {
  const cgroup = join(unified?.path ?? '', `${name}-devices`);
  /** r0 = verdict; exit */
  const program = (verdict: number): Uint8Array => Uint8Array.from([0xb7, 0, 0, 0, verdict, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0]);
  const canOpen = (): boolean => spawnSync('sh', ['-c', `echo 0 > ${cgroup}/cgroup.procs && exec dd if=/dev/zero of=/dev/null count=1`], { stdio: 'ignore' }).status === 0;
  const attach = (bytes: Uint8Array): string => runHost({ kind: 'attachDeviceFilter', cgroup, program: bytes }).output;

  it('denies, is replaced by the next one, and says what the verifier found', () => {
    mkdirSync(cgroup);
    try {
      assert.ok(canOpen());
      assert.equal(attach(program(0)), '');
      assert.ok(!canOpen());
      assert.equal(attach(program(1)), '');
      assert.ok(canOpen(), 'the denying filter is gone');
      assert.match(attach(program(1).slice(8)), /^failed 0 0 (13|22) [^]*R0/);
      assert.match(attach(new Uint8Array(3)), /^failed 0 0 22 /);
      assert.ok(canOpen());
    } finally {
      execFileSync('rmdir', [cgroup]);
    }
  });
});
