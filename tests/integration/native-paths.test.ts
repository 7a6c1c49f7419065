/**
 * What the interpreter does with paths that lie in a hostile root: each class of trap is built, and leads to an error or
 * to nothing (CVE-2021-30465, CVE-2019-16884, CVE-2025-31133, CVE-2025-52881).
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, lstatSync, mkdirSync, readFileSync, readdirSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { type Step, ms, noSlot, open } from '#plan';
import { type Outcome, failed, host, makeScratch, payload, removeScratch, runPlan, setup, skip } from './native-driver.ts';

const [EPERM, ENOENT, EEXIST, ENOTDIR, EINVAL, ENOTEMPTY, ELOOP, EDQUOT] = [1, 2, 17, 20, 22, 39, 40, 122] as const;

after(removeScratch);

describe('paths below a root', { skip }, () => {
  it('stay inside whatever the links say', () => {
    const root = makeScratch();
    const outside = makeScratch();
    symlinkSync(outside, join(root, 'absolute'));
    symlinkSync(`../../../../../../..${outside}`, join(root, 'relative'));
    symlinkSync('/made/by/link', join(root, 'dangling'));
    const outcome = runPlan({
      sections: [
        host(
          { kind: 'openPath', dir: noSlot, path: root, flags: open.path, mode: 0, resolve: 0, out: 70 },
          { kind: 'makeDirectory', dir: 70, path: '/absolute/x', mode: 0o751, parents: 1 },
          { kind: 'makeDirectory', dir: 70, path: 'relative/y', mode: 0o1777, parents: 1 },
          { kind: 'makeDirectory', dir: 70, path: 'dangling/z', mode: 0o700, parents: 1 },
          { kind: 'makeDirectory', dir: 70, path: 'plain/../../../up/deep', mode: 0o700, parents: 1, ignore: [ENOENT] },
          { kind: 'makeFile', dir: 70, path: '/absolute/x/file', mode: 0o640, data: Buffer.from('content') },
        ),
      ],
    });
    assert.doesNotMatch(outcome.output, /failed/);
    assert.deepEqual(readdirSync(outside), []);
    assert.equal(statSync(join(root, outside, 'x')).mode & 0o7777, 0o751);
    assert.equal(statSync(join(root, outside, 'y')).mode & 0o7777, 0o1777);
    assert.ok(existsSync(join(root, 'made/by/link/z')));
    assert.equal(readFileSync(join(root, outside, 'x/file'), 'utf8'), 'content');
    assert.equal(statSync(join(root, outside, 'x/file')).mode & 0o7777, 0o640);
  });

  it('writes no file through a link, into a FIFO or a device', () => {
    const root = makeScratch();
    symlinkSync('/etc/hostname', join(root, 'link'));
    execFileSync('mkfifo', [join(root, 'fifo')]);
    const make = (path: string): number =>
      failed(
        runPlan({
          sections: [
            host(
              { kind: 'openPath', dir: noSlot, path: root, flags: open.path, mode: 0, resolve: 0, out: 70 },
              { kind: 'makeFile', dir: 70, path, mode: 0o644, data: Buffer.from('x') },
            ),
          ],
        }),
      ).errno;
    assert.equal(make('link'), ELOOP);
    assert.equal(make('fifo'), EEXIST);
    assert.equal(failed(runPlan({ sections: [host({ kind: 'writeFile', dir: noSlot, path: join(root, 'link'), data: Buffer.from('x'), fileSystem: 0 })] })).errno, ELOOP);
  });

  it('writes to procfs only where it is procfs, not over another mount, not through links', () => {
    const write = (path: string, before: Step[] = []): Outcome =>
      runPlan({
        sections: [
          setup({ kind: 'setPropagation', path: '/', flags: ms.private | ms.recursive }, ...before, {
            kind: 'writeFile',
            dir: noSlot,
            path,
            data: Buffer.from('7'),
            fileSystem: 1,
          }),
        ],
      });
    const file = join(makeScratch(), 'fake');
    writeFileSync(file, 'before');
    assert.doesNotMatch(write('/proc/sys/net/ipv4/ip_forward').output, /failed/);
    assert.doesNotMatch(write('/proc/self/oom_score_adj').output, /failed/);
    assert.equal(failed(write('/etc/hostname')).errno, EINVAL);
    assert.equal(
      failed(write('/proc/sys/net/ipv4/ip_forward', [{ kind: 'mount', cwd: '', source: file, target: '/proc/sys/net/ipv4/ip_forward', type: '', flags: ms.bind, data: '' }])).errno,
      18,
    );
    assert.equal(failed(write('/proc/self/attr/exec', [{ kind: 'mount', cwd: '', source: 'tmpfs', target: '/proc', type: 'tmpfs', flags: 0, data: '' }])).errno, EPERM);
    assert.equal(failed(write('/proc/self/cwd/x')).errno, ELOOP);
    assert.equal(readFileSync(file, 'utf8'), 'before');
  });

  it('mounts on a verified target only', () => {
    const root = makeScratch();
    mkdirSync(join(root, 'real'));
    writeFileSync(join(root, 'file'), '');
    symlinkSync('real', join(root, 'linked'));
    symlinkSync('../..', join(root, 'up'));
    const mountOn = (target: string, create: number, noLinks: number): Outcome =>
      runPlan({
        sections: [
          setup(
            { kind: 'setPropagation', path: '/', flags: ms.private | ms.recursive },
            { kind: 'openPath', dir: noSlot, path: root, flags: open.path, mode: 0, resolve: 0, out: 70 },
            { kind: 'newFileSystem', type: 'tmpfs', options: [], attributes: 0, out: 71 },
            { kind: 'moveMount', from: 71, root: 70, target, create, noLinks },
          ),
          payload({ kind: 'execute', file: '/bin/busybox', argv: ['busybox', 'grep', root, '/proc/self/mountinfo'], env: [] }),
        ],
      });
    assert.match(mountOn('linked', 1, 0).output, new RegExp(`${root}/real `));
    assert.equal(failed(mountOn('linked', 1, 1)).errno, ELOOP);
    for (const itself of ['up', '/', '..', 'real/..']) assert.equal(failed(mountOn(itself, 1, 0)).errno, EINVAL, itself);
    assert.equal(failed(mountOn('file', 1, 0)).errno, ENOTDIR);
    assert.equal(failed(mountOn('real', 2, 0)).errno, 21);
    assert.equal(failed(mountOn('missing', 0, 0)).errno, ENOENT);
    assert.match(mountOn('new/deep', 1, 1).output, new RegExp(`${root}/new/deep `));
  });

  it('refuses a file on procfs as a mount target and a fake null device as a mask', () => {
    const file = join(makeScratch(), 'source');
    writeFileSync(file, '');
    const onProc = runPlan({
      sections: [
        setup(
          { kind: 'openTree', dir: noSlot, path: file, resolve: 0, recursive: 0, out: 71 },
          { kind: 'openPath', dir: noSlot, path: '/', flags: open.path, mode: 0, resolve: 0, out: 70 },
          { kind: 'moveMount', from: 71, root: 70, target: '/proc/cpuinfo', create: 0, noLinks: 0 },
        ),
      ],
    });
    assert.deepEqual(failed(onProc), { section: 0, step: 2, errno: EPERM, detail: '' });
    const root = makeScratch();
    mkdirSync(join(root, 'dev'));
    symlinkSync('/secret', join(root, 'dev/null'));
    writeFileSync(join(root, 'secret'), '');
    const mask = runPlan({
      sections: [setup({ kind: 'openPath', dir: noSlot, path: root, flags: open.path, mode: 0, resolve: 0, out: 70 }, { kind: 'maskPath', root: 70, path: '/secret' })],
    });
    assert.equal(failed(mask).errno, EPERM);
  });

  it('removes a tree deeper than any path, keeps what links point to, and stops at another mount', () => {
    const root = makeScratch();
    const kept = makeScratch();
    writeFileSync(join(kept, 'kept'), '');
    mkdirSync(join(root, 'tree'));
    symlinkSync(kept, join(root, 'tree/link'));
    const before = process.cwd();
    process.chdir(join(root, 'tree'));
    for (let depth = 0; depth < 2500; depth += 1) {
      writeFileSync('f', '');
      mkdirSync('d');
      process.chdir('d');
    }
    process.chdir(before);
    const outcome = runPlan({
      sections: [
        host(
          { kind: 'removeTree', dir: noSlot, path: join(root, 'tree') },
          { kind: 'removeTree', dir: noSlot, path: join(root, 'tree') },
          { kind: 'removeTree', dir: noSlot, path: join(root, 'no/such') },
        ),
      ],
    });
    assert.doesNotMatch(outcome.output, /failed/);
    assert.deepEqual(readdirSync(root), []);
    assert.deepEqual(readdirSync(kept), ['kept']);
    mkdirSync(join(root, 'tree/mounted'), { recursive: true });
    const mounted = runPlan({
      sections: [
        host(
          { kind: 'mount', cwd: '', source: kept, target: join(root, 'tree/mounted'), type: '', flags: ms.bind, data: '' },
          { kind: 'removeTree', dir: noSlot, path: join(root, 'tree') },
        ),
      ],
    });
    assert.equal(failed(mounted).errno, 16);
    assert.deepEqual(readdirSync(kept), ['kept']);
  });

  it('copies a tree into an empty directory with modes, owners, times and links', () => {
    const [from, to] = [makeScratch(), makeScratch()];
    execFileSync('sh', [
      '-c',
      `cd ${from} && mkdir -p a/b && echo text > a/b/file && chmod 4755 a/b/file && chown 12:34 a && ln -s b a/link && mkfifo a/fifo && touch -d @1000000000 a/b/file && touch -d @1000000001 a`,
    ]);
    const copy = (): Outcome =>
      runPlan({
        sections: [host({ kind: 'copyTree', fromDir: noSlot, from, dir: noSlot, path: to }, { kind: 'copyTree', fromDir: noSlot, from: '/no/such', dir: noSlot, path: to })],
      });
    assert.doesNotMatch(copy().output, /failed/);
    assert.equal(readFileSync(join(to, 'a/b/file'), 'utf8'), 'text\n');
    assert.equal(statSync(join(to, 'a/b/file')).mode & 0o7777, 0o4755);
    assert.equal(statSync(join(to, 'a/b/file')).mtimeMs, 1e12);
    assert.equal(statSync(join(to, 'a')).mtimeMs, 1e12 + 1000);
    assert.deepEqual([statSync(join(to, 'a')).uid, statSync(join(to, 'a')).gid], [12, 34]);
    assert.ok(lstatSync(join(to, 'a/link')).isSymbolicLink());
    assert.ok(!existsSync(join(to, 'a/fifo')));
    rmSync(join(to, 'a/b'), { recursive: true });
    copy();
    assert.ok(!existsSync(join(to, 'a/b')), 'a directory that is not empty gets nothing');
  });

  it('fills a directory with another, its own mode, owner and time included, within bounds', () => {
    const [root, to] = [makeScratch(), makeScratch()];
    execFileSync('sh', [
      '-c',
      `cd ${root} && mkdir -p d/in && echo 12345 > d/in/six && chown 12:34 d && chmod 2750 d && touch -d @1000000000 d && ln -s ../../.. up && ln -s d link`,
    ]);
    const fill = (from: string, bytesMax = 6n, entriesMax = 2): Outcome =>
      runPlan({
        sections: [
          host(
            { kind: 'openPath', dir: noSlot, path: root, flags: open.path, mode: 0, resolve: 0, out: 70 },
            { kind: 'fillDirectory', fromDir: 70, from, dir: noSlot, path: to, bytesMax, entriesMax },
          ),
        ],
      });
    for (const from of ['/up', '..', '.', '/']) assert.equal(failed(fill(from)).errno, EINVAL, from);
    assert.equal(failed(fill('/d/in/six')).errno, ENOTDIR);
    assert.doesNotMatch(fill('/missing').output, /failed/);
    assert.deepEqual(readdirSync(to), []);
    assert.equal(failed(fill('/d', 5n)).errno, EDQUOT);
    execFileSync('sh', ['-c', `rm -rf ${to}/*`]);
    assert.equal(failed(fill('/d', 6n, 1)).errno, EDQUOT);
    execFileSync('sh', ['-c', `rm -rf ${to}/*`]);
    assert.doesNotMatch(fill('/link').output, /failed/);
    assert.equal(readFileSync(join(to, 'in/six'), 'utf8'), '12345\n');
    const { uid, gid, mode, mtimeMs } = statSync(to);
    assert.deepEqual([uid, gid, mode & 0o7777, mtimeMs], [12, 34, 0o2750, 1e12]);
    assert.equal(failed(fill('/d')).errno, ENOTEMPTY);
  });
});
