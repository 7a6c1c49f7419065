/** What a caller's environment and flags make of a process object. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type SpecProcess, decodeProcess } from '#oci';
import { countListenFds, lacksHome, settleProcess } from './environment.ts';
import { changeProcess } from './exec.io.ts';

const make = (more: object = {}): SpecProcess => decodeProcess({ args: ['x'], cwd: '/', env: [], ...more }, 'process');
const ignore = (): void => undefined;

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
    (message) => void told.push(message),
  );
  assert.deepEqual(capabilities?.ambient, ['CAP_KILL']);
  assert.deepEqual(told, ["can't raise ambient capability CAP_CHOWN: operation not permitted", "can't raise ambient capability CAP_SYS_ADMIN: operation not permitted"]);
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
