/**
 * User namespaces and copies with other owners, in the interpreter alone: maps that the parent writes, slots that later children of a plan get, the
 * init of a new PID namespace, and what of it is refused.
 */
import assert from 'node:assert/strict';
import { chownSync, linkSync, mkdirSync, readFileSync, readdirSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { type IdMappings, type LayerRecord, type Section, type Step, clone, noSlot, open, userNamespaceSections } from '#plan';
import { type Outcome, failed, host, makeScratch, payload, pod, readXattr, removeScratch, runPlan, runUnpack, setup, skip } from './native-driver.ts';

const [EPERM, ENOENT, EBADF, EINVAL, ELOOP, EPROTO] = [1, 2, 9, 22, 40, 71] as const;
after(removeScratch);

const mappings: IdMappings = { uids: [{ containerId: 0, hostId: 200_000, size: 1000 }], gids: [{ containerId: 0, hostId: 300_000, size: 1000 }] };
const userSlot = 78;
const sections = userNamespaceSections(mappings, { slot: userSlot, barrier: 2, origin: '/user' });
const enter: readonly Step[] = [
  { kind: 'enterNamespace', slot: userSlot, type: clone.newUser },
  { kind: 'setUser', uid: 0, gid: 0 },
];
const shell = (script: string): Step => ({ kind: 'execute', file: '/bin/busybox', argv: ['sh', '-c', script], env: ['PATH=/bin:/usr/bin'] });
const outputOf = ({ output, error }: Outcome): string => {
  assert.equal(error, '');
  return output;
};

describe('user namespaces of the interpreter', { skip }, () => {
  it('maps ids from outside and hands the namespace to the process of the plan', () => {
    const outcome = runPlan({
      sections: [...sections, setup(...enter), payload({ kind: 'barrier', barrier: 1 }, shell('busybox id -u; busybox id -g; cat /proc/self/uid_map /proc/self/gid_map'))],
    });
    assert.match(outputOf(outcome), /0\n0\n +0 +200000 +1000\n +0 +300000 +1000\n/);
  });

  it('makes several with barriers of their own', () => {
    const other = userNamespaceSections({ ...mappings, uids: [{ containerId: 5, hostId: 7, size: 1 }] }, { slot: 90, barrier: 3, origin: '/other' });
    const outcome = runPlan({
      sections: [
        ...sections,
        ...other,
        setup({ kind: 'enterNamespace', slot: 90, type: clone.newUser }),
        payload({ kind: 'barrier', barrier: 1 }, shell('cat /proc/self/uid_map')),
      ],
    });
    assert.match(outputOf(outcome), /^ +5 +7 +1$/m);
  });

  it('fails in the section that writes a map which the kernel refuses', () => {
    const bad = userNamespaceSections({ ...mappings, gids: [{ containerId: 0, hostId: 0, size: 0 }] }, { slot: userSlot, barrier: 2, origin: '/user' });
    assert.deepEqual(failed(runPlan({ sections: [...bad, pod({ kind: 'closeSlot', slot: 70 })] })), { section: 1, step: 1, errno: EINVAL, detail: '' });
  });

  it('continues as the init of a new PID namespace with its slots, and without its rights on the host', () => {
    const file = join(makeScratch(), 'file');
    writeFileSync(file, 'x', { mode: 0o600 });
    const outcome = runPlan({
      sections: [
        ...sections,
        setup(
          { kind: 'openPath', dir: noSlot, path: '/proc', flags: open.path | open.directory, mode: 0, resolve: 0, out: 80 },
          ...enter,
          { kind: 'forkInside', flags: clone.newPid },
          { kind: 'openPath', dir: 80, path: 'version', flags: open.readOnly, mode: 0, resolve: 0, out: 81 },
        ),
        payload({ kind: 'barrier', barrier: 1 }, shell(`echo pid $$; cat ${file} 2>&1 | grep -c denied`)),
      ],
    });
    assert.match(outputOf(outcome), /pid 1\n1\n/);
  });

  const refusals: readonly (readonly [what: string, steps: readonly Step[], errno: number])[] = [
    ['an init of a PID namespace that is not new', [{ kind: 'forkInside', flags: clone.newUts }], EINVAL],
    ['an init with flags that are none of namespaces', [{ kind: 'forkInside', flags: clone.newPid | 0x100 }], EINVAL],
    ['streams for the user that means no change', [{ kind: 'giveStreams', uid: 0xffff_ffff, gid: 0 }], EINVAL],
    [
      'an export to the slot of the waiting child',
      [
        { kind: 'openNamespace', type: clone.newUts, out: 80 },
        { kind: 'exportSlot', slot: 80, podSlot: 255 },
      ],
      EINVAL,
    ],
    ['an export of an empty slot', [{ kind: 'exportSlot', slot: 80, podSlot: 81 }], EBADF],
  ];
  for (const [what, steps, errno] of refusals) {
    it(`refuses ${what}`, () => assert.equal(failed(runPlan({ sections: [setup(...steps), payload(shell('true'))] })).errno, errno));
  }

  it('refuses a fork in a section of the host', () => {
    assert.equal(failed(runPlan({ sections: [host({ kind: 'forkInside', flags: clone.newPid })] })).errno, EPERM);
  });
});

describe('copies with other owners', { skip }, () => {
  const shift = (from: string, to: string, more: Partial<Extract<Step, { kind: 'shiftTree' }>> = {}): Section =>
    pod({ kind: 'shiftTree', fromDir: noSlot, from, dir: noSlot, path: to, uids: [0, 200_000, 1000, 5000, 0, 1], gids: [0, 300_000, 1000], ...more });
  function makeDirectories(): { readonly from: string; readonly to: string } {
    const base = makeScratch();
    for (const name of ['from', 'to']) mkdirSync(join(base, name));
    return { from: join(base, 'from'), to: join(base, 'to') };
  }

  it('maps every range, and names the root of the mapping in file capabilities', () => {
    const { from, to } = makeDirectories();
    const attributes = { mode: 0o4755, uid: 999, gid: 1000, mtimeNs: 5n };
    const capability = (revision: number, rest: string): Uint8Array => Buffer.from(`010000${revision.toString(16).padStart(2, '0')}00040000000000000000000000000000${rest}`, 'hex');
    const file = (path: string, value: Uint8Array): LayerRecord => ({ op: 'file', path, ...attributes, size: 0n, xattrs: [{ name: 'security.capability', value }] });
    assert.equal(
      runUnpack(from, [file('second', capability(2, '')), file('third', capability(3, '88130000')), file('foreign', capability(3, '89130000')), { op: 'finish' }]),
      'ok 3\n',
    );
    symlinkSync('second', join(from, 'link'));
    linkSync(join(from, 'link'), join(from, 'same'));
    writeFileSync(join(from, 'root'), '');
    chownSync(join(from, 'root'), 5000, 0);
    assert.equal(outputOf(runPlan({ sections: [shift(from, to)] })), '\nstatus 0\n');
    assert.deepEqual(readdirSync(to).sort(), readdirSync(from).sort());
    // Group 1000 has no mapping: no set-user-id bit for whoever that is.
    const second = statSync(join(to, 'second'), { bigint: true });
    assert.deepEqual([second.uid, second.gid, second.mode & 0o7777n, second.mtimeNs], [200_999n, 65_534n, 0o755n, 5n]);
    assert.equal(readXattr(join(to, 'second'), 'security.capability').slice(0, 8), '01000003');
    assert.equal(readXattr(join(to, 'second'), 'security.capability').slice(40), '400d0300');
    // 5000 is the root of nobody that the mapping leaves inside but the host's own; 5001 is nobody's.
    assert.equal(readXattr(join(to, 'foreign'), 'security.capability'), '');
    assert.deepEqual([statSync(join(to, 'root')).uid, statSync(join(to, 'root')).gid], [0, 300_000]);
  });

  it('goes deep and wide, and keeps names of one file together', () => {
    const { from, to } = makeDirectories();
    const deep = join(from, ...Array.from({ length: 200 }, (_item, index) => `d${index}`));
    mkdirSync(deep, { recursive: true });
    writeFileSync(join(deep, 'end'), 'end');
    for (let index = 0; index < 600; index += 1) writeFileSync(join(from, `file${index}`), String(index));
    for (let index = 0; index < 600; index += 1) linkSync(join(from, `file${index}`), join(deep, `link${index}`));
    assert.equal(outputOf(runPlan({ sections: [shift(from, to)] })), '\nstatus 0\n');
    assert.equal(readFileSync(join(deep.replace(from, to), 'end'), 'utf8'), 'end');
    for (const index of [0, 511, 599]) {
      const [file, link] = [statSync(join(to, `file${index}`)), statSync(join(deep.replace(from, to), `link${index}`))];
      assert.deepEqual([file.ino, file.nlink, readFileSync(join(to, `file${index}`), 'utf8')], [link.ino, 2, String(index)]);
    }
  });

  const refusals: readonly (readonly [what: string, more: Partial<Extract<Step, { kind: 'shiftTree' }>>, errno: number])[] = [
    ['no mapping', { uids: [] }, EINVAL],
    ['half a range', { gids: [0, 1] }, EINVAL],
    ['an empty range', { uids: [0, 1, 0] }, EINVAL],
    ['a range that ends beyond the last id', { uids: [0, 0xffff_fff0, 16] }, EINVAL],
    ['a source that is missing', { from: '/nowhere' }, ENOENT],
  ];
  for (const [what, more, errno] of refusals) {
    it(`refuses ${what}`, () => {
      const { from, to } = makeDirectories();
      assert.equal(failed(runPlan({ sections: [shift(from, to, more)] })).errno, errno);
    });
  }

  it('follows no link at either end, and names the entry at which it failed', () => {
    const { from, to } = makeDirectories();
    const link = join(makeScratch(), 'link');
    symlinkSync(from, link);
    assert.ok([ELOOP, 20].includes(failed(runPlan({ sections: [shift(link, to)] })).errno));
    assert.ok([ELOOP, 20].includes(failed(runPlan({ sections: [shift(from, link)] })).errno));
    mkdirSync(join(from, 'a/b'), { recursive: true });
    writeFileSync(join(from, 'a/b/taken'), 'x');
    mkdirSync(join(to, 'a'));
    assert.deepEqual(failed(runPlan({ sections: [shift(from, to)] })), { section: 0, step: 0, errno: 17, detail: 'a/' });
  });
});

describe('the style of a layer', { skip }, () => {
  const attributes = { mode: 0o755, uid: 0, gid: 0, mtimeNs: 0n, xattrs: [] };
  const unpack = (records: readonly LayerRecord[]): { readonly output: string; readonly layer: string } => {
    const layer = join(makeScratch(), 'layer');
    mkdirSync(layer);
    return { output: runUnpack(layer, [...records, { op: 'finish' }]), layer };
  };
  const mark = (path: string, name: string): string => Buffer.from(readXattr(path, name), 'hex').toString('latin1');

  it('marks directories and whiteouts by attributes of any user', () => {
    const { output, layer } = unpack([
      { op: 'style', style: 'userFiles' },
      { op: 'whiteout', path: 'd/gone' },
      { op: 'directory', path: 'd', ...attributes },
      { op: 'opaque', path: 'd/o' },
      { op: 'whiteout', path: 'd/o/gone' },
      { op: 'whiteout', path: 'covered' },
      { op: 'directory', path: 'covered', ...attributes },
      { op: 'whiteout', path: 'again' },
      { op: 'file', path: 'again', ...attributes, size: 1n },
      { op: 'data', data: Buffer.from('x') },
      { op: 'file', path: 'empty', ...attributes, size: 0n },
      { op: 'whiteout', path: 'empty' },
    ]);
    assert.equal(output, 'ok 10\n');
    assert.equal(mark(join(layer, 'd/gone'), 'user.overlay.whiteout'), 'y');
    // "x": look for marked files here; "y": hides all that is below.
    assert.deepEqual([mark(layer, 'user.overlay.opaque'), mark(join(layer, 'd'), 'user.overlay.opaque'), mark(join(layer, 'd/o'), 'user.overlay.opaque')], ['x', 'x', 'y']);
    assert.equal(mark(join(layer, 'covered'), 'user.overlay.opaque'), 'y');
    assert.deepEqual([readFileSync(join(layer, 'again'), 'utf8'), mark(join(layer, 'again'), 'user.overlay.whiteout')], ['x', '']);
    // An empty file of the same layer is a file.
    assert.equal(mark(join(layer, 'empty'), 'user.overlay.whiteout'), '');
  });

  it('comes first or not at all, and no entry brings such attributes itself', () => {
    assert.equal(
      unpack([
        { op: 'opaque', path: 'd' },
        { op: 'style', style: 'user' },
      ]).output,
      `failed ${EPROTO} d\n`,
    );
    assert.equal(unpack([{ op: 'directory', path: 'd', ...attributes, xattrs: [{ name: 'user.overlay.opaque', value: Buffer.from('y') }] }]).output, `failed ${EPERM} d\n`);
    const unknown = Buffer.from([10, 0, 0, 0, 4, 0, 0, 0, 9, 0, 0, 0]);
    const layer = join(makeScratch(), 'layer');
    mkdirSync(layer);
    assert.equal(runUnpack(layer, [unknown, { op: 'finish' }]), `failed ${EINVAL} \n`);
  });
});
