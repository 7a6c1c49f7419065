/** The words that criu gets, and what its files are read as. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type RuntimeSpec, decodeRuntimeSpec } from '#oci';
import { planUnifiedOptions } from './cgroup-options.io.ts';
import { decodeStreams, dumpWords, lastError, restoreCommand } from './criu.ts';
import type { CheckpointOptions, RestoreOptions } from './options.ts';

const common = {
  id: 'a',
  imagePath: '/images',
  workPath: '',
  tcpEstablished: false,
  tcpSkipInFlight: false,
  extUnixSk: false,
  shellJob: false,
  lazyPages: false,
  fileLocks: false,
  autoDedup: false,
  linkRemap: false,
  emptyNetwork: false,
  manageCgroupsMode: '',
} as const;
const checkpoint: CheckpointOptions = { ...common, parentPath: '', leaveRunning: false, preDump: false, statusFd: -1 };
const restore: RestoreOptions = { ...common, bundle: '/b', consoleSocket: '', pidFile: '', detach: true, noSubreaper: false, noPivot: false, lsmProfile: '', lsmMountContext: '' };
const specWith = (namespaces: readonly object[], mounts: readonly object[] = [], more: object = {}): RuntimeSpec =>
  decodeRuntimeSpec({ ociVersion: '1.3.0', root: { path: '/r' }, process: { args: ['x'], cwd: '/' }, mounts, linux: { namespaces, ...more } });
const dumpFacts = {
  pid: 5,
  bundle: '/b',
  rootfs: '/r',
  freezeCgroup: '',
  resolve: (path: string): string => path,
  inodeOf: (): bigint => 42n,
  networkLock: '',
  streams: [],
};
const restoreFacts = { bundle: '/b', mountpoint: '/s/a/root', cgroupPath: '/c', pidFile: '/s/a/criu.pid', streams: [], networkLock: '' };
const behind = (words: readonly string[], word: string): readonly string[] => words.flatMap((one, index) => (words[index - 1] === word ? [one] : []));

test('namespaces of others and binds are outside on both sides, by the same names', () => {
  const spec = specWith(
    [{ type: 'network', path: '/run/netns/n' }, { type: 'pid', path: '/p p' }, { type: 'ipc', path: '/i' }, { type: 'mount' }],
    [{ destination: '/data', source: 'data', options: ['rbind'] }],
  );
  assert.deepEqual(behind(dumpWords(checkpoint, { ...dumpFacts, spec, resolve: (path) => `/real${path}` }), '--external'), [
    'mnt[/real/data]:/data',
    'net[42]:extRootNetNS',
    'pid[42]:extRootPidNS',
  ]);
  const command = restoreCommand(restore, { ...restoreFacts, spec });
  assert.deepEqual(command.slice(0, 8), ['/bin/sh', '-ec', 'exec 3<"$1"; exec 4<"$2"; shift 2; exec "$@"', 'sh', '/run/netns/n', '/p p', 'criu', 'restore']);
  assert.deepEqual(behind(command, '--external'), ['mnt[/data]:/b/data']);
  assert.deepEqual(behind(command, '--inherit-fd'), ['fd[3]:extRootNetNS', 'fd[4]:extRootPidNS']);
  assert.deepEqual(behind(command, '--join-ns'), ['ipc:/i']);
});

test('flags have their words, and a name that would mean something else to criu is refused', () => {
  const spec = specWith([{ type: 'mount' }]);
  const words = dumpWords(
    { ...checkpoint, preDump: true, leaveRunning: true, parentPath: '../p', tcpSkipInFlight: true, emptyNetwork: true, pageServer: { address: '::1', port: 9 } },
    { ...dumpFacts, spec, freezeCgroup: '/g', networkLock: 'nftables' },
  );
  assert.equal(words[0], 'pre-dump');
  for (const word of ['--skip-in-flight', '--track-mem', '--page-server', '--no-default-config', '--manage-cgroups=soft']) assert.ok(words.includes(word), word);
  assert.deepEqual(
    ['--prev-images-dir', '--address', '--port', '--empty-ns', '--freeze-cgroup', '--network-lock'].map((word) => behind(words, word)[0]),
    ['../p', '::1', '9', 'net', '/g', 'nftables'],
  );
  assert.ok(!words.includes('--leave-running'));
  const odd = specWith([{ type: 'mount' }], [{ destination: '/a]:b', source: '/x', options: ['bind'] }]);
  assert.throws(() => dumpWords(checkpoint, { ...dumpFacts, spec: odd }), /mounts: destination "\/a\]:b": criu takes no mount whose path has a bracket/);
  assert.throws(() => restoreCommand(restore, { ...restoreFacts, spec: odd }), /criu takes no mount/);
  const grouped = specWith([{ type: 'cgroup', path: '/g' }]);
  assert.throws(() => restoreCommand(restore, { ...restoreFacts, spec: grouped }), /linux\.namespaces: a cgroup namespace by its path: criu cannot restore into one/);
});

test('names of streams come from a stranger: only pipes and files of the host are handed over, and only three', () => {
  const spec = specWith([{ type: 'mount' }]);
  const streams = decodeStreams('["pipe:[1]","pipe:[2]:x","file[1:zz]","pipe:[3]"]', '/d');
  assert.deepEqual(behind(restoreCommand(restore, { ...restoreFacts, spec, streams }), '--inherit-fd'), ['fd[0]:pipe:[1]']);
  assert.throws(() => decodeStreams('{"a":1}', '/d'), /must be an array|array/);
  assert.throws(() => decodeStreams(JSON.stringify(Array.from({ length: 65 }, () => 'x')), '/d'), /64/);
});

test('of criu’s log the last error counts that says something', () => {
  const log =
    '(00.1) fine\n(00.2) Error (a.c:1): first\n(00.3)     12: Error (b.c:2): the \x1b[31mreason\n(00.4) Error (criu/util.c:642): exited, status=1\n(00.5) Error (criu/cr-dump.c:2053): Dumping FAILED.\n';
  assert.equal(lastError(log), 'Error (b.c:2): the ?[31mreason');
  assert.equal(lastError('(00.5) Error (criu/cr-dump.c:2053): Dumping FAILED.'), 'Error (criu/cr-dump.c:2053): Dumping FAILED.');
  assert.equal(lastError('nothing'), '');
});

test('the cgroup2 tree gets its options back where criu has changed them', () => {
  const mount = { id: 1, parent: 0, device: '0:1', root: '/', mountpoint: '/sys/fs/cgroup', options: ['rw', 'nosuid', 'noexec'], optional: [], type: 'cgroup2', source: 'cgroup2' };
  const [before, now] = [
    { ...mount, superOptions: ['rw', 'nsdelegate', 'memory_recursiveprot'] },
    { ...mount, superOptions: ['rw'] },
  ];
  assert.deepEqual(planUnifiedOptions(before, before), { sections: [] });
  assert.deepEqual(planUnifiedOptions(undefined, now), { sections: [] });
  assert.deepEqual(planUnifiedOptions(before, now).sections[0]?.steps, [
    { kind: 'mount', cwd: '', source: '', target: '/sys/fs/cgroup', type: '', flags: 32 | 2 | 8, data: 'nsdelegate,memory_recursiveprot' },
  ]);
});
