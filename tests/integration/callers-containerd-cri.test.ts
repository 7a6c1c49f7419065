/** Kubernetes' way to berth-oci: CRI requests by the official crictl to Debian's containerd, whose runtime handler names it. */
import assert from 'node:assert/strict';
import { mkdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { after, before, describe, test } from 'node:test';
import { readFacts } from '../facts.ts';
import { type Finished } from './berth-host.ts';
import { image, socket, startContainerd, writeArchive } from './callers-containerd-host.ts';
import { CallerPlace, type CommandOptions, assertAdopted, cgroupFile, containerCgroups, readProcess, run, runtimeProcesses, skipWithout, start, until } from './callers-host.ts';

const crictlPath = fileURLToPath(new URL('../../build/go/crictl', import.meta.url));

describe('containerd under CRI', { skip: readFacts()['no-go'] ? 'Go is not installed' : skipWithout('containerd', 'ctr', 'script') }, () => {
  let place: CallerPlace;
  let pod = '';
  const podFile = (): string => `${place.directory}/pod.json`;

  const words = (args: readonly string[]): string[] => [crictlPath, '-r', `unix://${socket}`, '-i', `unix://${socket}`, '--timeout', '60s', ...args];
  const crictl = async (args: readonly string[], options: CommandOptions = {}): Promise<Finished> => run(words(args), options);
  const ok = async (args: readonly string[]): Promise<string> => {
    const { status, stdout, stderr } = await crictl(args);
    assert.equal(status, 0, `crictl ${args.join(' ')}: status ${status}: ${stderr}${stdout}`);
    return stdout.trimEnd();
  };
  const create = async (name: string, command: readonly string[], more: Record<string, unknown> = {}): Promise<string> => {
    const config = { metadata: { name }, image: { image }, command, log_path: `${name}.log`, linux: {}, ...more };
    return ok(['create', '--no-pull', pod, place.write(`${name}.json`, JSON.stringify(config)), podFile()]);
  };
  const pidOf = async (id: string): Promise<number> => Number(await ok(['inspect', '-o', 'go-template', '--template', '{{.info.pid}}', id]));

  before(async () => {
    place = new CallerPlace();
    await startContainerd(place);
    const imported = await run(['ctr', '-a', socket, '-n', 'k8s.io', 'images', 'import', '--local', '--base-name', 'localhost/busybox', await writeArchive(place)]);
    const again = imported.status === 0 ? imported : await run(['ctr', '-a', socket, '-n', 'k8s.io', 'images', 'import', `${place.directory}/image.tar`]);
    assert.equal(again.status, 0, again.stderr);
    mkdirSync(`${place.directory}/logs`);
    const config = {
      metadata: { name: 'web', uid: 'uid-1', namespace: 'default', attempt: 0 },
      log_directory: `${place.directory}/logs`,
      linux: { cgroup_parent: place.cgroupParent, security_context: { namespace_options: { network: 2, pid: 1 } } },
    };
    place.write('pod.json', JSON.stringify(config));
    pod = await ok(['runp', podFile()]);
  });
  after(async () => {
    await ok(['rmp', '-f', '-a']);
    await place[Symbol.asyncDispose]();
  });

  test('a container belongs to the shim, and its log and exit code arrive', async () => {
    const id = await create('adopted', ['sh', '-c', "trap 'echo ended; exit 3' TERM; echo ready; while :; do sleep 0.1; done"]);
    await ok(['start', id]);
    const pid = await pidOf(id);
    await until('the script runs', () => readFileSync(`${place.directory}/logs/adopted.log`, 'utf8').includes('stdout F ready'));
    await assertAdopted(pid, /^containerd-shim /);
    await ok(['stop', '--timeout', '30', id]);
    assert.equal(await ok(['inspect', '-o', 'go-template', '--template', '{{.status.state}} {{.status.exitCode}}', id]), 'CONTAINER_EXITED 3');
    assert.equal(await ok(['logs', id]), 'ready\nended');
    await ok(['rm', id]);
    assert.equal(readProcess(pid), undefined);
  });

  test('exec, with and without a terminal', async () => {
    const id = await create('joined', ['sleep', '1000'], { linux: { security_context: { run_as_user: { value: 1000 }, no_new_privs: true } } });
    await ok(['start', id]);
    assert.equal(await ok(['exec', '-s', id, 'id', '-un']), 'alice');
    const failed = await crictl(['exec', '-s', id, 'sh', '-c', 'exit 9']);
    assert.match(failed.stderr, /exited with 9|exit code 9/);
    const missing = await crictl(['exec', '-s', id, 'nosuch']);
    assert.match(missing.stderr, /exec: .?"nosuch.?": executable file not found in \$PATH/);
    const command = start(words(['exec', '-it', id, 'sh']), { terminal: true });
    command.type('tty; echo $((40+2))\n');
    await command.untilOutput('/dev/pts/');
    await command.untilOutput('42');
    command.type('exit 0\n');
    assert.equal((await command.finished).status, 0, command.output());
    await ok(['rm', '-f', id]);
    assert.deepEqual(runtimeProcesses(), []);
  });

  test('update changes limits, stats tell use', async () => {
    const id = await create('limited', ['sleep', '1000'], { linux: { resources: { memory_limit_in_bytes: 104857600, cpu_shares: 512 } } });
    await ok(['start', id]);
    const pid = await pidOf(id);
    const memory = (): string => cgroupFile(pid, 'memory', { v1: 'memory.limit_in_bytes', v2: 'memory.max' });
    assert.equal(memory(), '104857600');
    await ok(['update', '--memory', '125829120', '--cpu-share', '256', '--cpu-quota', '20000', '--cpu-period', '100000', id]);
    assert.equal(memory(), '125829120');
    assert.match(cgroupFile(pid, 'cpu', { v1: 'cpu.cfs_quota_us', v2: 'cpu.max' }), /^20000/);
    await until('stats', async () => /"usageBytes"|"workingSetBytes"/.test(await ok(['stats', '-o', 'json', id])));
    await ok(['rm', '-f', id]);
  });

  test('a program that is missing or may not run fails the start with its text', async () => {
    const runs = async (...command: string[]): Promise<string> => {
      const id = await create('failing', command);
      const { status, stderr } = await crictl(['start', id]);
      assert.notEqual(status, 0);
      const code = await ok(['inspect', '-o', 'go-template', '--template', '{{.status.exitCode}} {{.status.reason}}', id]);
      await ok(['rm', '-f', id]);
      return `${code} ${stderr}`;
    };
    assert.match(await runs('nosuch'), /^128 StartError [^]*exec: .?"nosuch.?": executable file not found in \$PATH/);
    assert.match(await runs('/etc/data'), /^128 StartError [^]*permission denied/);
    assert.deepEqual(containerCgroups(place.cgroupParent, pod), []);
  });
});
