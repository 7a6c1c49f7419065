/** What a caller's environment and flags make of a process object. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type SpecProcess, decodeProcess } from '#oci';
import { countListenFds, lacksHome, settleProcess, settleSize } from './environment.ts';
import { changeProcess, completeProcess } from './exec.io.ts';

const make = (more: object = {}): SpecProcess => decodeProcess({ args: ['x'], cwd: '/', env: [], ...more }, 'process');
const ignore = { debug: (): void => undefined, warn: (): void => undefined };

test('of equal variables the last counts, and an empty HOME is none', () => {
  const { env } = settleProcess(make({ env: ['A=1', 'B=', 'HOME=/x', 'A=2', 'HOME='] }), ignore);
  assert.deepEqual(env, ['B=', 'A=2']);
  assert.equal(lacksHome({ ...make(), env }), true);
  assert.equal(lacksHome(make({ env: ['HOME=/x'] })), false);
});

test('ambient capabilities that could not be raised are left out and told', () => {
  const told: string[] = [];
  const { capabilities } = settleProcess(
    make({ capabilities: { permitted: ['CAP_KILL', 'CAP_CHOWN'], inheritable: ['CAP_KILL'], ambient: ['CAP_KILL', 'CAP_CHOWN', 'CAP_SYS_ADMIN'] } }),
    { debug: (message) => void told.push(message), warn: (message) => void told.push(`warning: ${message}`) },
  );
  assert.deepEqual(capabilities?.ambient, ['CAP_KILL']);
  assert.deepEqual(told, ["can't raise ambient capability CAP_CHOWN: operation not permitted", "can't raise ambient capability CAP_SYS_ADMIN: operation not permitted"]);
  settleProcess(make({ capabilities: { bounding: ['CAP_NO_SUCH'] } }), { debug: ignore.debug, warn: (message) => void told.push(message) });
  assert.equal(told.at(-1), 'ignoring unknown or unavailable capabilities: ["CAP_NO_SUCH"]');
});

test('a terminal that the front copies begins with the size of the caller’s', () => {
  const size = { columns: 77, rows: 33 };
  const sized = make({ terminal: true, consoleSize: { height: 10, width: 20 } });
  assert.deepEqual(settleSize(sized, { size }).consoleSize, { height: 33, width: 77 });
  assert.equal(settleSize(sized, { size: { columns: 0, rows: 0 } }), sized);
  assert.equal(settleSize(make(), { size }).consoleSize, undefined);
});

test('a process of a file has the container’s rights, labels and OOM score where it says none', () => {
  const own = make({
    capabilities: { bounding: ['CAP_KILL'] },
    rlimits: [{ type: 'RLIMIT_CORE', soft: 1, hard: 2 }],
    apparmorProfile: 'p',
    selinuxLabel: 'l',
    oomScoreAdj: 7,
    noNewPrivileges: true,
  });
  const bare = completeProcess(make({ env: ['A=1'] }), own);
  const { capabilities, oomScoreAdj, apparmorProfile, selinuxLabel } = own;
  assert.deepEqual(bare, { ...make({ env: ['A=1'] }), capabilities, oomScoreAdj, apparmorProfile, selinuxLabel });
  const full = make({ capabilities: {}, rlimits: [{ type: 'RLIMIT_CORE', soft: 3, hard: 4 }], apparmorProfile: 'q', selinuxLabel: 'm', oomScoreAdj: 0 });
  assert.deepEqual(completeProcess(full, own), full);
  assert.equal(completeProcess(full, undefined), full);
});

test('sockets of a service manager count only for the process that they are meant for', () => {
  assert.equal(countListenFds({ pid: 5, env: { LISTEN_PID: '5', LISTEN_FDS: '3' } }), 3);
  assert.equal(countListenFds({ pid: 6, env: { LISTEN_PID: '5', LISTEN_FDS: '3' } }), 0);
  for (const count of ['', '-1', 'x', '1.5']) assert.equal(countListenFds({ pid: 5, env: { LISTEN_PID: '5', LISTEN_FDS: count } }), 0);
});

test('flags of exec replace and add as with runc', () => {
  const base = make({ env: ['A=1'], user: { uid: 1, gid: 2, additionalGids: [3] }, terminal: true, capabilities: { permitted: ['CAP_KILL'], bounding: ['CAP_KILL'] } });
  const none = { args: ['y'], cwd: '', env: [], caps: [], additionalGids: [], tty: false, processLabel: '', apparmor: '' };
  assert.deepEqual(changeProcess(base, none), { ...base, args: ['y'], terminal: false });
  const changed = changeProcess(base, { ...none, cwd: '/c', env: ['B=2'], caps: ['CAP_CHOWN'], additionalGids: [9], user: { uid: 7 }, noNewPrivs: true, apparmor: 'p' });
  assert.deepEqual(changed.user, { uid: 7, gid: 2, additionalGids: [3, 9] });
  assert.deepEqual(changed.env, ['A=1', 'B=2']);
  assert.deepEqual(changed.capabilities, { bounding: ['CAP_KILL', 'CAP_CHOWN'], effective: ['CAP_CHOWN'], permitted: ['CAP_KILL', 'CAP_CHOWN'], inheritable: [], ambient: [] });
  assert.deepEqual([changed.cwd, changed.noNewPrivileges, changed.apparmorProfile], ['/c', true, 'p']);
});
