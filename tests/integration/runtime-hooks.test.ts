/**
 * Hooks against a real kernel: where each kind runs, what it is told, what its failure and its hanging do, and that the shim answers meanwhile.
 */
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readFileSync, readdirSync, readlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { RuntimeError } from '#core';
import { type HookKind, type RuntimeSpec, type SpecHook, hookKinds } from '#oci';
import { type HookPlace, type PlanContainerInput, bundleSteps, defaultCapabilities, oomFileOf, planContainer, planContainerRemoval, planPoststart, planPoststop } from '#runtime';
import { type RuntimeHost, type TestPod, makeSpec, skipReason, startRuntimeHost, writeRoot } from './runtime-host.ts';

const patienceMs = 30_000;

async function until(what: string, condition: () => boolean): Promise<void> {
  for (const deadline = Date.now() + patienceMs; !condition(); await sleep(20)) assert.ok(Date.now() < deadline, `${what}: not within ${patienceMs} ms`);
}

/** The message is compared whole where it is a text. */
async function expectFailure(work: Promise<unknown>, { code, message }: { readonly code: string; readonly message: string | RegExp }): Promise<void> {
  await assert.rejects(work, (error: unknown) => {
    assert.ok(error instanceof RuntimeError, String(error));
    assert.equal(error.code, code, error.message);
    if (typeof message === 'string') assert.equal(error.message, message);
    else assert.match(error.message, message);
    return true;
  });
}

/** Processes of this machine whose command line has the word. */
function processesWith(word: string): string[] {
  return readdirSync('/proc').filter((name) => {
    if (!/^\d+$/.test(name)) return false;
    try {
      return readFileSync(`/proc/${name}/cmdline`, 'utf8').includes(word);
    } catch {
      return false;
    }
  });
}

describe('hooks', { skip: skipReason() }, () => {
  // Whatever of it was made goes, where the rest could not be.
  const stack = new AsyncDisposableStack();
  let host: RuntimeHost;
  let pod: TestPod;
  let shared: TestPod;
  let serial = 0;

  before(async () => {
    // On a disk, where older kernels map owners too.
    host = stack.use(await startRuntimeHost('/var/tmp'));
    pod = stack.use(await host.makePod());
    shared = stack.use(await host.makePod({ sharePid: true }));
    // On the host and inside the container alike; `$1` is where it writes.
    const report = [
      '#!/bin/sh',
      'exec >>"$1"',
      'echo "name=$0 args=$* word=$WORD path=${PATH:-none} cwd=$(pwd) mnt=$(readlink /proc/self/ns/mnt) pid=$(readlink /proc/self/ns/pid) net=$(readlink /proc/self/ns/net) uid=$(id -u) home=${HOME:-none}"',
      'cat',
      'echo',
    ].join('\n');
    for (const directory of [host.directory, join(host.root, 'bin')]) writeFileSync(join(directory, 'hook'), `${report}\n`, { mode: 0o755 });
  });

  after(async () => stack.disposeAsync());

  const script = (name: string, text: string): string => {
    const path = join(host.directory, name);
    writeFileSync(path, `#!/bin/sh\n${text}\n`, { mode: 0o755 });
    return path;
  };

  interface Made {
    readonly spec: RuntimeSpec;
    readonly place: HookPlace;
    readonly input: PlanContainerInput;
  }

  /** A container with hooks, planned, its bundle made. */
  const make = async (
    hooks: Partial<Record<HookKind, readonly SpecHook[]>>,
    { of = pod, args = ['sleep', '1000'], capabilities = defaultCapabilities }: { of?: TestPod; args?: readonly string[]; capabilities?: readonly string[] } = {},
  ): Promise<Made> => {
    serial += 1;
    const id = `hooks-${serial}`;
    const spec: RuntimeSpec = { ...makeSpec(host.host, { args, root: { readonly: false }, capabilities }), hooks, annotations: { 'example.com/key': 'a "value"' } };
    const place = { id, bundle: join(host.directory, `bundle-${serial}`) };
    const input: PlanContainerInput = {
      spec,
      rootfs: { kind: 'directory', path: host.root },
      pod: of.sandbox.sharing,
      host: host.host,
      cgroup: { path: `/berth-test/${of.id}/${id}`, controllers: of.sandbox.controllers },
      askIdentity: false,
      hookPlace: place,
    };
    await of.execute({ sections: [{ actor: 'host', steps: bundleSteps(spec, place) }] });
    return { spec, place, input };
  };
  const create = async ({ place, input }: Made, of: TestPod = pod): Promise<number> =>
    (await of.shim.createProcess({ processId: place.id, plan: planContainer(input), log: { directory: of.logDirectory, path: `${place.id}.log` }, oomFile: oomFileOf(input) })).pid;
  const remove = async ({ place, input }: Made, of: TestPod = pod): Promise<void> => {
    await of.shim.signalProcess(place.id, 9).catch(() => undefined);
    await of.shim.execute(planContainerRemoval(host.host, input.cgroup, { timeoutMs: 20_000 }));
    // The shim reads the last output before it takes a process as ended.
    for (let forgotten = false; !forgotten; await sleep(10)) {
      forgotten = await of.shim.removeProcess(place.id).then(
        () => true,
        (error: unknown) => error instanceof RuntimeError && error.code === 'notFound',
      );
    }
  };
  const hook = (path: string, ...args: string[]): SpecHook => ({ path, args: [path, ...args], env: ['WORD=a b', 'PATH=/usr/bin:/bin'] });

  test('each kind runs at its point, in its namespaces, and is told the state of the container', async () => {
    const out = (kind: HookKind): string => join(host.directory, `seen-${kind}`);
    const path = join(host.directory, 'hook');
    const hooks = Object.fromEntries(
      hookKinds.map((kind) => [
        kind,
        kind === 'startContainer' ? [hook('/bin/hook', '/data/seen')] : [{ ...hook(path, out(kind), 'first') }, { ...hook(path, out(kind), 'second') }],
      ]),
    );
    const made = await make(hooks);
    const pid = await create(made);
    assert.deepEqual(
      hookKinds.filter((kind) => existsSync(out(kind))),
      ['prestart', 'createRuntime', 'createContainer'],
    );
    assert.equal(existsSync(join(host.root, 'data/seen')), false, 'a hook of the start before the start');
    const [hostNet, hostPid, hostMount] = ['net', 'pid', 'mnt'].map((type) => readlinkSync(`/proc/self/ns/${type}`));
    const namespacesOf = (type: string): string => readlinkSync(`/proc/${pid}/ns/${type}`);
    const linesOf = (file: string): readonly string[] => readFileSync(file, 'utf8').trim().split('\n');
    const stateOf = (line: string | undefined): unknown => JSON.parse(line ?? '');
    const common = { ociVersion: '1.3.0', id: made.place.id, bundle: made.place.bundle, annotations: { 'example.com/key': 'a "value"' } };
    for (const kind of ['prestart', 'createRuntime'] as const) {
      const [first, state, second] = linesOf(out(kind));
      assert.equal(
        first,
        `name=${path} args=${out(kind)} first word=a b path=/usr/bin:/bin cwd=${made.place.bundle} mnt=${hostMount} pid=${hostPid} net=${hostNet} uid=0 home=none`,
      );
      assert.match(second ?? '', / second word=/);
      assert.deepEqual(stateOf(state), { ...common, status: kind === 'prestart' ? 'created' : 'creating', pid });
    }
    const [inside, insideState] = linesOf(out('createContainer'));
    assert.ok(inside?.includes(`mnt=${namespacesOf('mnt')} pid=${namespacesOf('pid')} net=${namespacesOf('net')}`), inside ?? '');
    assert.deepEqual(stateOf(insideState), { ...common, status: 'creating', pid: 1 });

    await pod.shim.startProcess(made.place.id);
    const [started, startedState] = linesOf(join(host.root, 'data/seen'));
    assert.ok(started?.startsWith(`name=/bin/hook args=/data/seen word=a b path=/usr/bin:/bin cwd=/ mnt=${namespacesOf('mnt')} pid=${namespacesOf('pid')}`), started ?? '');
    assert.deepEqual(stateOf(startedState), { ...common, status: 'created', pid: 1 });
    assert.equal(existsSync(out('poststart')), false);
    for (const plan of planPoststart(made.spec, made.place, pid)) await pod.execute(plan);
    assert.deepEqual(stateOf(linesOf(out('poststart'))[1]), { ...common, status: 'running', pid });
    assert.equal(linesOf(out('poststart')).length, 4);
    await remove(made);
    for (const plan of planPoststop(made.spec, made.place)) await pod.execute(plan);
    assert.deepEqual(stateOf(linesOf(out('poststop'))[1]), { ...common, status: 'stopped' });
  });

  test('the bundle leads to the root before and after the pivot, and what a createContainer hook mounts is in the container', async () => {
    const seen = join(host.directory, 'seen-root');
    const look = script('look', `ls rootfs/bin/busybox >>${seen} && grep -c '"path":"rootfs"' config.json >>${seen}`);
    const mount = script('mount-hook', `mount -t tmpfs none ${host.root}/data && echo from-the-hook > ${host.root}/data/file && ls rootfs/data/file >>${seen}`);
    const after = script('look-after', `ls rootfs/proc/1/status >>${seen}`);
    const made = await make({ createRuntime: [hook(look)], createContainer: [hook(mount)], poststart: [hook(after)] }, { args: ['sh', '-c', 'cat /data/file; exec sleep 1000'] });
    await create(made);
    const { pid } = await pod.shim.startProcess(made.place.id);
    for (const plan of planPoststart(made.spec, made.place, pid)) await pod.execute(plan);
    const log = join(pod.logDirectory, `${made.place.id}.log`);
    await until('the line of the container', () => readFileSync(log, 'utf8').includes('from-the-hook'));
    assert.equal(readFileSync(seen, 'utf8'), 'rootfs/bin/busybox\n1\nrootfs/data/file\nrootfs/proc/1/status\n');
    assert.equal(existsSync(join(host.root, 'data/file')), false, 'the mount of the hook reached the host');
    await remove(made);
  });

  test('in a joined PID namespace a createContainer hook stays outside of it, for others there could trace it', async () => {
    const seen = join(host.directory, 'seen-outside');
    const made = await make({ createContainer: [hook(join(host.directory, 'hook'), seen)] }, { of: shared });
    await create(made, shared);
    const { pid } = await shared.shim.startProcess(made.place.id);
    assert.ok(readFileSync(seen, 'utf8').includes(`pid=${readlinkSync('/proc/self/ns/pid')}`));
    assert.notEqual(readlinkSync(`/proc/${pid}/ns/pid`), readlinkSync('/proc/self/ns/pid'));
    await remove(made, shared);
  });

  test('below a user namespace createContainer hooks are in the container’s other namespaces, with the host’s files', async () => {
    const storeDir = join(host.directory, 'store');
    for (const name of ['lower', 'upper', 'work', 'mnt']) mkdirSync(join(storeDir, name), { recursive: true });
    writeRoot(join(storeDir, 'lower'));
    const own = await host.makePod({ namespaces: { net: false, ipc: false, uts: false } });
    const [seen, looked] = [join(host.directory, 'seen-mapped'), join(host.directory, 'seen-mapped-root')];
    const mount = script('mount-mapped', `mount -t tmpfs none rootfs/data && echo from-the-hook > rootfs/data/file && readlink /proc/self/ns/user >>${looked}`);
    const made = await make(
      { createRuntime: [hook(script('look-mapped', `ls rootfs/bin/busybox >>${looked}`))], createContainer: [hook(join(host.directory, 'hook'), seen), hook(mount)] },
      { of: own, args: ['sh', '-c', 'cat /data/file; id -u; exec sleep 1000'] },
    );
    const range = { containerId: 0, hostId: 200_000, size: 65_536 };
    const { linux } = made.spec;
    const namespaces = ['user', 'pid', 'network', 'mount', 'ipc', 'uts', 'cgroup'].map((type) => ({ type }) as (typeof linux.namespaces)[number]);
    const spec: RuntimeSpec = { ...made.spec, linux: { ...linux, namespaces, hasIdMappings: true, uidMappings: [range], gidMappings: [range] } };
    const rootfs = { kind: 'overlay', storeDir, lower: ['lower'], upper: 'upper', work: 'work', mountpoint: join(storeDir, 'mnt'), mapLower: true } as const;
    const mapped: Made = { ...made, spec, input: { ...made.input, spec, rootfs } };
    const pid = await create(mapped, own);
    await own.shim.startProcess(made.place.id);
    const log = join(own.logDirectory, `${made.place.id}.log`);
    await until('the lines of the container', () => readFileSync(log, 'utf8').split('\n').length > 2);
    assert.match(readFileSync(log, 'utf8'), /stdout F from-the-hook\n.*stdout F 0\n/);
    const [mountNamespace, pidNamespace, net] = ['mnt', 'pid', 'net'].map((type) => readlinkSync(`/proc/${pid}/ns/${type}`));
    const [line, state] = readFileSync(seen, 'utf8').split('\n');
    assert.ok(line?.includes(`cwd=${made.place.bundle} mnt=${mountNamespace} pid=${pidNamespace} net=${net} uid=0`), line ?? '');
    assert.equal((JSON.parse(state ?? '') as { readonly pid: number }).pid, 1);
    assert.equal(readFileSync(looked, 'utf8'), `rootfs/bin/busybox\n${readlinkSync('/proc/self/ns/user')}\n`);
    assert.deepEqual(readdirSync(join(storeDir, 'mnt')), [], 'the root or the stage reached the host');
    await remove(mapped, own);
    await own[Symbol.asyncDispose]();
  });

  test('a failing hook fails the creation with its path, its exit code and the end of its words', async () => {
    const fails = script('fails', 'echo to-output; echo "line one" >&2; printf "last\\033[31m words\\n" >&2; exit 7');
    const never = join(host.directory, 'never');
    const made = await make({ createRuntime: [hook(fails), hook(script('never-run', `touch ${never}`))] });
    await expectFailure(create(made), { code: 'failedPrecondition', message: `/hooks/createRuntime/0: run the hook ${fails}: exit code 7: to-output; line one; last?[31m words` });
    assert.equal(existsSync(never), false, 'a hook ran after one that failed');
    assert.deepEqual(
      (await pod.shim.state()).map(({ processId }) => processId),
      [],
    );
    await remove(made);

    const killed = await make({ createContainer: [hook(script('dies', 'kill -9 $$'))] });
    await expectFailure(create(killed), { code: 'failedPrecondition', message: `/hooks/createContainer/0: run the hook ${join(host.directory, 'dies')}: ended by signal 9` });
    await remove(killed);

    const absent = await make({ prestart: [hook('/no/such/hook')] });
    await expectFailure(create(absent), { code: 'notFound', message: '/hooks/prestart/0: run the hook /no/such/hook: ENOENT' });
    await remove(absent);
  });

  test('a failing startContainer hook fails the start, and the payload never runs', async () => {
    writeFileSync(join(host.root, 'bin/refuse'), '#!/bin/sh\nid -u >&2; exit 3\n', { mode: 0o755 });
    const made = await make({ startContainer: [hook('/bin/refuse')] }, { args: ['touch', '/data/payload'] });
    await create(made);
    await expectFailure(pod.shim.startProcess(made.place.id), { code: 'failedPrecondition', message: '/hooks/startContainer/0: run the hook /bin/refuse: exit code 3: 0' });
    assert.equal(existsSync(join(host.root, 'data/payload')), false);
    await remove(made);
  });

  test('a startContainer hook with SYS_PTRACE finds no way to the host in the process that waits for it', async () => {
    const look = 'for f in /proc/1/fd/*; do [ ! -d "$f/" ] || echo directory; readlink "$f"; done';
    writeFileSync(join(host.root, 'bin/peek'), `#!/bin/sh\nexec >/data/peeked\n${look}\ntrue\n`, { mode: 0o755 });
    const made = await make({ startContainer: [hook('/bin/peek')] }, { capabilities: [...defaultCapabilities, 'CAP_SYS_PTRACE'] });
    await create(made);
    await pod.shim.startProcess(made.place.id);
    const found = readFileSync(join(host.root, 'data/peeked'), 'utf8').split('\n');
    assert.ok(
      found.some((line) => line.startsWith('/memfd:')),
      `it could not look at all: ${found.join(' ')}`,
    );
    assert.deepEqual(
      found.filter((line) => line.length > 1 && !/^(pipe|socket|anon_inode):|^\/memfd:/.test(line)),
      [],
    );
    await remove(made);
  });

  test('a hook that talks without end is read, and only its last words are kept', async () => {
    const talks = script('talks', 'i=0; while [ $i -lt 4000 ]; do echo "line $i of a very long story that nobody wants to hear"; i=$((i+1)); done; exit 1');
    const made = await make({ createRuntime: [hook(talks)] });
    await expectFailure(create(made), { code: 'failedPrecondition', message: /exit code 1: ….{600,700}line 3999 of a very long story that nobody wants to hear$/ });
    await remove(made);
  });

  test('a hook that hangs holds up nobody else: the shim answers while it waits', async () => {
    const [begun, go] = [join(host.directory, 'begun'), join(host.directory, 'go')];
    const waits = script('waits', `touch ${begun}; while [ ! -e ${go} ]; do sleep 0.05; done`);
    const [made, other] = [await make({ createRuntime: [hook(waits)] }), await make({})];
    let isCreated = false;
    const creation = create(made).then(() => {
      isCreated = true;
    });
    await until('the beginning of the hook', () => existsSync(begun));
    await create(other);
    await pod.shim.startProcess(other.place.id);
    assert.deepEqual(
      (await pod.shim.state()).map(({ processId, state }) => [processId, state]),
      [[other.place.id, 'running']],
    );
    assert.equal(isCreated, false);
    writeFileSync(go, '');
    await creation;
    await remove(made);
    await remove(other);
  });

  test('at its time-out a hook is killed with its process group', async () => {
    const word = `group-${process.pid}-a`;
    const hangs = script('hangs', `echo waiting; sh -c 'sleep 5000; : ${word}' & sh -c 'sleep 5000; : ${word}'`);
    const made = await make({ prestart: [{ ...hook(hangs), timeout: 2 }] });
    await expectFailure(create(made), { code: 'deadlineExceeded', message: /^\/hooks\/prestart\/0: run the hook \S+: killed after its 2000 ms(: waiting)?$/ });
    await until('the end of the group', () => processesWith(word).length === 0);
    await remove(made);
  });

  test('the death of the waiting container, and the end of the shim, end a hook and what it began', async () => {
    const begun = join(host.directory, 'begun-again');
    const word = `group-${process.pid}-b`;
    const hangs = script('hangs-too', `sh -c 'sleep 5000; : ${word}' & touch ${begun}; sleep 5000`);
    const made = await make({ createRuntime: [hook(hangs)] });
    const creation = expectFailure(create(made), { code: 'unknown', message: 'create the process: ECHILD' });
    await until('the beginning of the hook', () => existsSync(begun));
    await pod.shim.execute(planContainerRemoval(host.host, made.input.cgroup, { timeoutMs: 20_000 }));
    await creation;
    await until('the end of the hook', () => processesWith(word).length === 0);

    const own = await host.makePod();
    mkdirSync(join(host.directory, 'own'));
    const begunToo = join(host.directory, 'own/begun');
    const second = await make({ createRuntime: [hook(script('hangs-three', `sh -c 'sleep 5000; : ${word}' & touch ${begunToo}; sleep 5000`))] }, { of: own });
    const failure = expectFailure(create(second, own), { code: 'unknown', message: 'create the process: ECANCELED' });
    await until('the beginning of the hook', () => existsSync(begunToo));
    await own[Symbol.asyncDispose]();
    await failure;
    await until('the end of the hook', () => processesWith(word).length === 0);
  });
});
