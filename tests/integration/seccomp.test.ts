/**
 * Filters of system calls as containers have them: the same answers as those of runc, taken from the kernel; what a payload and an exec see of them; and an agent that answers
 * for calls in their place. With SECCOMP_FIXTURES=write the recorded programs of tests/seccomp are made again.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { type SeccompRule, type SpecSeccomp, formatJson } from '#oci';
import { compileSeccomp } from '#runtime';
import { syscallNumbers } from '../../src/runtime/syscalls.ts';
import { differences } from '../seccomp/compare.ts';
import { expandProfileFile, makeCorpus, makePairs } from '../seccomp/corpus.ts';
import { readRecorded, writeRecorded } from '../seccomp/fixtures.ts';
import { Filter } from '../seccomp/interpreter.ts';
import { buildTool, filterOf } from '../seccomp/runtime-filter.ts';
import { type OciDocument, OciHost, runtimePrograms, skipReason } from './oci-host.ts';

const skip = skipReason();
const newestRunc = new URL('../../build/go/runc', import.meta.url).pathname;
const runcs = [newestRunc, runtimePrograms.runc].filter((path) => existsSync(path));
const podmanFile = '/usr/share/containers/seccomp.json';
const withFilter =
  (seccomp: Partial<SpecSeccomp>, fields: object = {}) =>
  (document: OciDocument): void => {
    // Values of arguments are larger than JSON's own numbers only in the corpus, which is not made here.
    const plain: unknown = JSON.parse(formatJson(seccomp));
    Object.assign(document.linux, { seccomp: plain });
    Object.assign(document.process, fields);
  };

describe('filters of system calls', { skip }, () => {
  let host: OciHost;
  let agentTool: string;
  const agents: ChildProcess[] = [];
  before(() => {
    host = new OciHost();
    agentTool = `${host.directory}/agent`;
    const { status, stderr } = spawnSync('gcc', ['-O1', '-Wall', '-Wextra', '-Werror', '-o', agentTool, new URL('../seccomp/agent.c', import.meta.url).pathname], {
      encoding: 'utf8',
    });
    assert.equal(status, 0, stderr);
  });
  after(async () => {
    for (const agent of agents) agent.kill('SIGKILL');
    await host[Symbol.asyncDispose]();
  });

  /** The filter of a container that ends at once. */
  function takeFilter(program: string, seccomp: SpecSeccomp): Filter {
    const bundle = host.makeBundle(['true'], (document) => {
      document.linux.namespaces = document.linux.namespaces.filter(({ type }) => type !== 'network');
    });
    return new Filter(filterOf({ tool: buildTool(host.directory), program, directory: `${host.directory}/filters`, bundle }, seccomp, host.newId()));
  }

  for (const name of ['default', 'operators 1', 'several rules 2', 'several actions 12', 'kill the process']) {
    test(`a container has the same filter as one of runc: ${name}`, () => {
      const seccomp = readRecorded().find((each) => each.name === name)?.seccomp ?? assert.fail(name);
      const ours = takeFilter(runtimePrograms.berth, seccomp);
      assert.equal(ours.size, compileSeccomp(seccomp, 'x86_64', 'p').program.length / 8);
      assert(runcs.length > 0, 'no runc to compare with');
      for (const program of runcs) assert.deepEqual(differences(seccomp, ours, takeFilter(program, seccomp)).different, [], program);
    });
  }

  for (const { name, refused, seccomp } of makePairs()) {
    test(`${refused ? 'refuses' : 'takes'} two rules as runc does: ${name}`, async () => {
      // Debian's runc 1.1.5 never ends on some of these; the verdicts are those of runc 1.5.2, which is asked again where it was built.
      const runc = existsSync(newestRunc) ? newestRunc : undefined;
      if (!refused) {
        const own = takeFilter(runtimePrograms.berth, seccomp);
        if (runc === undefined) return;
        const theirs = takeFilter(runc, seccomp);
        const mixedUp = theirs.findMixedUp();
        const { different } = differences(seccomp, own, theirs);
        // libseccomp may compare a wrong word: tests/seccomp/exceptions.ts.
        const unexplained = different.filter(({ call, answers }) => !theirs.runRepaired(call, mixedUp).has(answers[0]));
        assert.deepEqual(unexplained, []);
        return;
      }
      const bundle = host.makeBundle(['true'], withFilter(seccomp));
      assert.match(await host.fails(['create', '--bundle', bundle, host.newId()]), /linux\.seccomp\.syscalls\[2\]: contradicts an earlier rule for .*mq_open/);
      if (runc !== undefined)
        assert.match(await host.fails(['run', '--bundle', bundle, host.newId()], 1, { program: runc }), /error adding seccomp rule for syscall mq_open: file exists/);
    });
  }

  test('a profile beyond what a filter can hold makes nothing', async () => {
    const names = [...syscallNumbers.x86_64.keys()];
    const syscalls = names.map((name, index): SeccompRule => {
      const args = [0, 1, 2].map((each) => ({ index: each, op: 'SCMP_CMP_GT', value: BigInt(index + 1), valueTwo: 0n }) as const);
      return { names: [name], action: 'SCMP_ACT_ERRNO', errnoRet: 13, args };
    });
    const id = host.newId();
    const bundle = host.makeBundle(['true'], withFilter({ defaultAction: 'SCMP_ACT_ALLOW', architectures: [], syscalls }));
    const groups = host.listCgroups();
    assert.match(await host.fails(['create', '--bundle', bundle, id]), /linux\.seccomp: \d+ instructions, at most 4096/);
    assert.match(await host.fails(['state', id]), /does not exist/);
    assert.deepEqual(host.listCgroups(), groups);
  });

  test('a filter that forbids the wait for the start is found out at create', async () => {
    const noAccept: SpecSeccomp = { ...noDirectories(), syscalls: [{ names: ['accept4'], action: 'SCMP_ACT_ERRNO', errnoRet: 1, args: [] }] };
    const bundle = host.makeBundle(['true'], withFilter(noAccept, { noNewPrivileges: false }));
    const id = host.newId();
    assert.match(await host.fails(['create', '--bundle', bundle, id]), /wait for the start at the container's socket: EPERM/);
    assert.match(await host.fails(['state', id]), /does not exist/);
    assert.equal((await host.run(['true'], withFilter(noAccept))).status, 0);
  });

  test("podman's own profile makes the same filter, whatever the capabilities", { skip: existsSync(podmanFile) ? false : `needs ${podmanFile}` }, () => {
    for (const capabilities of [['CAP_SYS_CHROOT'], ['CAP_AUDIT_WRITE', 'CAP_SYS_ADMIN']]) {
      const seccomp = expandProfileFile(readFileSync(podmanFile, 'utf8'), capabilities);
      const ours = takeFilter(runtimePrograms.berth, seccomp);
      for (const program of runcs.filter((path) => path === newestRunc)) assert.deepEqual(differences(seccomp, ours, takeFilter(program, seccomp)).different, [], program);
    }
  });

  test('the recorded programs can be made again', () => {
    if (process.env['SECCOMP_FIXTURES'] !== 'write') {
      const recorded = readRecorded().find(({ name }) => name === 'several rules 2') ?? assert.fail('not recorded');
      assert.deepEqual(differences(recorded.seccomp, new Filter(recorded.program), takeFilter(runcs[0] ?? assert.fail('no runc'), recorded.seccomp)).different, []);
      return;
    }
    const others = readRecorded().filter(({ name }) => !makeCorpus().some((made) => made.name === name));
    const bundle = host.makeBundle(['true']);
    const place = { tool: buildTool(host.directory), program: newestRunc, directory: `${host.directory}/filters`, bundle };
    const version = spawnSync(newestRunc, ['--version'], { encoding: 'utf8' }).stdout.replaceAll('\n', ', ');
    writeRecorded(
      version,
      [...makeCorpus(), ...others].map(({ name, seccomp }) => ({ name, seccomp, program: filterOf(place, seccomp, host.newId()) })),
    );
  });

  const noDirectories = (listenerPath?: string): SpecSeccomp => ({
    defaultAction: 'SCMP_ACT_ALLOW',
    architectures: [],
    flags: [],
    syscalls: [{ names: ['mkdir', 'mkdirat'], ...(listenerPath === undefined ? { action: 'SCMP_ACT_ERRNO', errnoRet: 122 } : { action: 'SCMP_ACT_NOTIFY' }), args: [] }],
    ...(listenerPath === undefined ? {} : { listenerPath, listenerMetadata: 'meta "data"' }),
  });

  for (const noNewPrivileges of [true, false]) {
    const kind = noNewPrivileges ? 'with' : 'without';
    test(`the first process and an exec have the filter, ${kind} no-new-privileges`, async () => {
      const script = 'mkdir /tmp/x; grep Seccomp: /proc/self/status; sleep 1000';
      const id = await host.start(['sh', '-c', script], withFilter(noDirectories(), { noNewPrivileges }));
      await host.until(() => host.outputOf(id).includes('Seccomp:\t2'), 'the container has printed');
      assert.match(host.outputOf(id), /quota exceeded/i);
      const { status, stderr, stdout } = await host.call(['exec', id, 'sh', '-c', 'grep Seccomp: /proc/self/status; mkdir /tmp/y']);
      assert.equal(status, 1, stderr);
      assert.match(stdout + stderr, /Seccomp:\t2[^]*quota exceeded/i);
      await host.ok(['delete', '--force', id]);
    });

    test(`an agent answers for the first process and for an exec, ${kind} no-new-privileges`, async () => {
      const socket = `${host.directory}/agent-${kind}.sock`;
      const first = await startAgent(socket);
      const bundle = host.makeBundle(['sh', '-c', 'mkdir /tmp/x; sleep 1000'], (document) => {
        withFilter(noDirectories(socket), { noNewPrivileges })(document);
        document.annotations = { 'a.b': 'ü' };
      });
      const id = await host.create(bundle);
      await host.until(() => first.lines().length >= 2, 'the agent has its listener');
      const { pid } = await host.state(id);
      const state = { ociVersion: '1.2.0', id, status: 'creating', bundle, annotations: { 'a.b': 'ü' }, pid };
      assert.deepEqual(JSON.parse(first.lines()[1] ?? ''), { ociVersion: '1.2.0', fds: ['seccompFd'], metadata: 'meta "data"', pid, state });
      await host.ok(['start', id]);
      await host.until(() => first.lines().length >= 3, 'the agent has answered');
      assert.match(first.lines()[2] ?? '', /^call \d+ of \d+$/);
      await host.until(() => /No medium found/i.test(host.outputOf(id)), 'the container has the answer');

      const second = await startAgent(`${socket}2`);
      // The profile of an exec is the container's, and so is its socket, where another agent listens by now.
      spawnSync('mv', ['-f', `${socket}2`, socket]);
      const { status, stderr } = await host.call(['exec', id, 'mkdir', '/tmp/y']);
      assert.equal(status, 1);
      assert.match(stderr, /No medium found/i);
      // SAFETY: the assertions below look at what it holds.
      const told = JSON.parse(second.lines()[1] ?? '') as { pid: number; state: { pid: number; status: string } };
      assert.deepEqual([told.state.pid, told.state.status, told.pid > 0 && told.pid !== pid], [pid, 'running', true]);
      assert.deepEqual(second.lines()[2]?.endsWith(` of ${told.pid}`), true, second.lines().join('\n'));
      await host.ok(['delete', '--force', id]);
    });
  }

  /** An agent that answers one call. */
  async function startAgent(socket: string): Promise<{ readonly lines: () => readonly string[] }> {
    let output = '';
    const agent = spawn(agentTool, [socket, '1'], { stdio: ['ignore', 'pipe', 'inherit'] });
    agents.push(agent);
    agent.stdout.setEncoding('utf8').on('data', (text: string) => (output += text));
    const lines = (): readonly string[] => output.split('\n').slice(0, -1);
    await host.until(() => lines().length > 0, 'the agent listens');
    return { lines };
  }

  test('nothing is left of a container whose agent is not there', async () => {
    const bundle = host.makeBundle(['true'], withFilter(noDirectories(`${host.directory}/nobody.sock`)));
    const id = host.newId();
    assert.match(
      await host.fails(['create', '--bundle', bundle, id]),
      /\/linux\/seccomp\/listenerPath: send the listener of the seccomp filter to [^ ]*\/nobody\.sock: ENOENT \(connect to the agent\)/,
    );
    assert.match(await host.fails(['state', id]), /does not exist/);
  });

  test('refuses what no filter can do, with its place in the document', async () => {
    const refusals: readonly (readonly [Partial<SpecSeccomp>, RegExp])[] = [
      [{ ...noDirectories(), defaultAction: 'SCMP_ACT_NOTIFY' }, /linux\.seccomp\.defaultAction: SCMP_ACT_NOTIFY cannot be used as default action/],
      [
        { ...noDirectories(), syscalls: [{ names: ['write'], action: 'SCMP_ACT_NOTIFY', args: [] }] },
        /linux\.seccomp\.syscalls\[0\]: SCMP_ACT_NOTIFY cannot be used for the write syscall/,
      ],
      [{ syscalls: noDirectories().syscalls }, /linux\.seccomp\.defaultAction: required/],
    ];
    for (const [seccomp, message] of refusals) {
      const bundle = host.makeBundle(['true'], withFilter(seccomp));
      assert.match(await host.fails(['create', '--bundle', bundle, host.newId()]), message);
    }
    assert.equal((await host.run(['true'], withFilter({}))).status, 0);
  });
});
